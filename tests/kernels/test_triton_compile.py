"""What the Triton kernels compile to for a GPU of compute capability 9.0, which needs no GPU.

With every version of Triton nothing may be spilled, and no lane may wait for another one where none needs to. How
many instructions there are depends on the compiler: that is asserted with the version that constraints.txt pins.
"""

import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends import nvidia  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

TOOLS = Path(nvidia.__file__).parent / "bin"
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
DEVICE = "meta"
PROCESSORS = 132
PINNED = re.search(r"^triton==(\S+)", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE)[1]
COUNTED = triton.__version__ == PINNED

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        triton.knobs.runtime.interpret, reason="kernels of the interpreter can't be compiled in the same process"
    ),
]


class Compiled:
    """A launch's kernel as machine code."""

    def __init__(self, launch, folder):
        kernel, arguments = launch.kernel, launch.arguments
        self.constants, self.attributes = {}, {}
        signature = {}
        for position, parameter in enumerate(kernel.params):
            value = arguments[parameter.name]
            if parameter.is_constexpr:
                self.constants[(position,)] = value
                signature[parameter.name] = "constexpr"
            else:
                signature[parameter.name] = self._type(value, (position,), parameter.do_not_specialize)
        source = ASTSource(kernel, signature, constexprs=self.constants, attrs=self.attributes)
        result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
        path = folder / "kernel.cubin"
        path.write_bytes(result.asm["cubin"])
        usage = self._tool("cuobjdump", "-res-usage", path)
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        self.registers, self.stack = int(found[1]), int(found[2])
        self.instructions, self.loops = self._disassemble(self._tool("nvdisasm", "-c", path))

    def _type(self, value, path, plain):
        """Triton's own specialisation: None and 1 are constants, multiples of 16 are noted."""
        if isinstance(value, tuple):
            return tuple(self._type(item, (*path, i), plain) for i, item in enumerate(value))
        if isinstance(value, torch.Tensor):
            self.attributes[path] = [["tt.divisibility", 16]]
            return POINTERS[value.dtype]
        if value is None or (value == 1 and not plain):
            self.constants[path] = value
            return "constexpr"
        if value % 16 == 0 and not plain:
            self.attributes[path] = [["tt.divisibility", 16]]
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    @staticmethod
    def _tool(name, *arguments):
        return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout

    @staticmethod
    def _disassemble(text):
        """All instructions, and the bodies of the loops, the innermost first."""
        instructions, labels, loops = [], {}, []
        for line in text.splitlines():
            if label := re.match(r"\s*(\.L_x_\d+):", line):
                labels[label[1]] = len(instructions)
            elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
                instructions.append(instruction[1])
        for end, instruction in enumerate(instructions):
            jump = re.search(r"BRA.*?(\.L_x_\d+)", instruction)
            # The end of the code is padded with a jump to itself.
            if jump and labels.get(jump[1], end) < end:
                loops.append(instructions[labels[jump[1]] : end + 1])
        return instructions, sorted(loops, key=len)

    def count(self, pattern, body=None):
        """How many instructions have an operation that begins with the pattern."""
        start = re.compile(r"(@!?U?P\d+\s+)?(" + pattern + ")")
        return sum(bool(start.match(line)) for line in (self.instructions if body is None else body))

    def assert_sound(self):
        assert self.stack == 0
        assert self.count("LDL|STL") == 0
        assert self.registers <= 255
        assert self.count("RED|ATOM") == 0


def empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device=DEVICE)


def make_scan(d_state, *, gate=False, batch=64, length=2048, dim=2048):
    """Inputs in bfloat16, with float32 parameters."""
    from mambarium.kernels.scan.description import Scan

    rows = [empty(batch, length, dim, dtype=torch.bfloat16) for _ in range(3)]
    matrices = [empty(batch, length, 1, d_state, dtype=torch.bfloat16) for _ in range(2)]
    z = rows[2] if gate else None
    return Scan(rows[0], rows[1], empty(dim, d_state), *matrices, empty(dim), z, empty(dim), delta_softplus=True)


def make_grid(d_state, *, batch=64, dim=96, size=56):
    """The scan of VMamba's four routes over its first stage."""
    from mambarium.kernels.scan.description import Order, Scan

    length, routes = size * size, 4
    order = Order(empty(routes, length, dtype=torch.int32))
    u = empty(batch, length, 1, dim, dtype=torch.bfloat16)
    delta = empty(batch, length, routes, dim, dtype=torch.bfloat16)
    matrices = [empty(batch, length, routes, d_state, dtype=torch.bfloat16) for _ in range(2)]
    parameters = [empty(routes * dim) for _ in range(2)]
    return Scan(
        u,
        delta,
        empty(routes * dim, d_state),
        *matrices,
        D=parameters[0],
        delta_bias=parameters[1],
        delta_softplus=True,
        order=order,
    )


def layout(scan, processors=PROCESSORS):
    from mambarium.kernels.triton_configuration import plan_segments, scan_configuration

    batch, length, dim, groups, d_state = scan.sizes
    segments = plan_segments(batch, length, dim, groups, processors)
    return segments, scan_configuration(batch * segments.number, length, dim, groups, d_state, processors)


def forward_launch(scan):
    from mambarium.kernels.scan.triton_launches import checkpoint_shape, plan_forward

    batch, _, dim, _, d_state = scan.sizes
    out = empty(*scan.delta.shape, dtype=torch.bfloat16 if scan.order is None else torch.float32)
    state, checkpoints = empty(batch, dim, d_state), empty(*checkpoint_shape(*scan.sizes))
    return plan_forward(scan, out, state, checkpoints, *layout(scan))


def backward_launch(scan):
    from mambarium.kernels.scan.description import Gradients
    from mambarium.kernels.scan.triton_launches import checkpoint_shape, plan_backward

    batch, _, dim, _, d_state = scan.sizes
    grad_u = empty(*scan.delta.shape, dtype=torch.bfloat16 if scan.order is None else torch.float32)
    gradients = Gradients(*(getattr(scan, field) for field in Gradients._fields))._replace(u=grad_u)
    state, checkpoints = empty(batch, dim, d_state), empty(*checkpoint_shape(*scan.sizes))
    return plan_backward(scan, torch.empty_like(scan.u), state, checkpoints, gradients, *layout(scan))


def report(compiled, what, per_state_step, record_property):
    record_property("registers", compiled.registers)
    record_property("instructions_per_state_step", per_state_step)
    print(f"{what}: {compiled.registers} registers, {per_state_step:.2f} instructions per state step")


def check_forward(launch, most_per_state_step, tmp_path, record_property):
    compiled = Compiled(launch, tmp_path)
    compiled.assert_sound()
    assert compiled.count("SHFL|BAR") == 0
    if not COUNTED:
        return
    loop = compiled.loops[0]  # over tiles, within that over checkpoints
    state_steps = launch.arguments["D_STATE"] * launch.arguments["TILE"] * launch.arguments["CHANNELS"]
    per_state_step = len(loop) / state_steps
    report(compiled, "forward", per_state_step, record_property)
    # An exponential per state and step, two for the steps' softplus: nothing is computed twice.
    assert compiled.count("MUFU", loop) <= state_steps * (1 + 2 / launch.arguments["D_STATE"])
    assert per_state_step <= most_per_state_step


def check_backward(launch, d_state, most_per_state_step, tmp_path, record_property):
    compiled = Compiled(launch, tmp_path)
    compiled.assert_sound()
    assert compiled.count("BAR") == 0
    if not COUNTED:
        return
    # The loop over states lies in that over tiles.
    states, tiles = compiled.loops
    lane_steps = launch.arguments["TILE"] * launch.arguments["CHANNELS"]
    per_state_step = len(states) / lane_steps + (len(tiles) - len(states)) / (lane_steps * d_state)
    report(compiled, "backward", per_state_step, record_property)
    # Two sums over the lanes per state and tile row, in a transposing butterfly.
    assert compiled.count("SHFL", states) <= 2 * launch.arguments["TILE"] + 2
    assert per_state_step <= most_per_state_step


@pytest.mark.parametrize(("d_state", "most_per_state_step"), [(16, 9), (1, 60)])
def test_scan_forward(d_state, most_per_state_step, tmp_path, record_property):
    launch = forward_launch(make_scan(d_state))
    assert launch.arguments["CHANNELS"] == 2
    check_forward(launch, most_per_state_step, tmp_path, record_property)


@pytest.mark.slow
def test_scan_forward_of_as_many_states_as_registers_hold(tmp_path, record_property):
    from mambarium.kernels.triton_configuration import MAX_STATES

    check_forward(forward_launch(make_scan(MAX_STATES)), 12, tmp_path, record_property)


@pytest.mark.parametrize(("gate", "most_per_state_step"), [(False, 25), pytest.param(True, 28, marks=pytest.mark.slow)])
def test_scan_backward(gate, most_per_state_step, tmp_path, record_property):
    launch = backward_launch(make_scan(16, gate=gate))
    assert launch.arguments["CHANNELS"] == 2
    check_backward(launch, 16, most_per_state_step, tmp_path, record_property)


@pytest.mark.parametrize(
    ("d_state", "batch", "channels", "most_per_state_step"),
    [pytest.param(16, 256, 2, 10, marks=pytest.mark.slow), (16, 64, 1, 12), (1, 64, 1, 80)],
)
def test_grid_forward(d_state, batch, channels, most_per_state_step, tmp_path, record_property):
    launch = forward_launch(make_grid(d_state, batch=batch))
    assert launch.arguments["CHANNELS"] == channels
    check_forward(launch, most_per_state_step, tmp_path, record_property)


@pytest.mark.parametrize(
    ("batch", "channels", "most_per_state_step"), [pytest.param(256, 2, 27, marks=pytest.mark.slow), (64, 1, 33)]
)
def test_grid_backward(batch, channels, most_per_state_step, tmp_path, record_property):
    launch = backward_launch(make_grid(16, batch=batch))
    assert launch.arguments["CHANNELS"] == channels
    check_backward(launch, 16, most_per_state_step, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_scan_of_segments_side_by_side(direction, tmp_path):
    from mambarium.kernels.scan.triton_segments import adjoint_entries, forward_entries

    d_state = 16
    inputs = make_scan(d_state, gate=True, batch=1, length=2**20, dim=16)
    if direction == "forward":
        scan = forward_launch(inputs)
        summary, carry = forward_entries(scan, None)
    else:
        scan = backward_launch(inputs)
        summary, carry = adjoint_entries(scan, empty(1, 16, d_state))
    # Two warps for each of a processor's four schedulers.
    assert scan.programs == summary.programs >= 0.95 * 8 * PROCESSORS

    compiled = Compiled(summary, tmp_path)
    compiled.assert_sound()
    assert compiled.count("SHFL|BAR") == 0
    Compiled(carry, tmp_path).assert_sound()
    Compiled(scan, tmp_path).assert_sound()
    if COUNTED:
        (loop,) = compiled.loops
        per_state_step = len(loop) / (d_state * summary.arguments["TILE"])
        print(f"{direction} summary: {compiled.registers} registers, {per_state_step:.2f} instructions per state step")
        assert per_state_step <= 9.5


def test_segments_of_a_grid(tmp_path):
    from mambarium.kernels.scan.triton_segments import forward_entries

    launch = forward_launch(make_grid(1, batch=1))
    assert launch.arguments["segments"] > 1
    summary, _ = forward_entries(launch, None)
    compiled = Compiled(summary, tmp_path)
    compiled.assert_sound()
    assert compiled.count("SHFL|BAR") == 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_conv(direction, tmp_path):
    from mambarium.kernels.conv import triton_backend
    from mambarium.kernels.conv.description import Conv

    x = empty(8, 2048, 2048, dtype=torch.bfloat16)
    conv = Conv(x, empty(2048, 4), empty(2048), None, None, True, False)
    plan = triton_backend.plan_forward if direction == "forward" else triton_backend.plan_backward
    launch = plan(conv, x) if direction == "forward" else plan(conv, x, conv)
    Compiled(launch, tmp_path).assert_sound()


@pytest.mark.parametrize("places", [False, True])
def test_state_update(places, tmp_path):
    from mambarium.kernels.step import triton_backend

    batch, dim, d_state = 8, 2048, 16
    x = empty(batch, 1, dim, dtype=torch.bfloat16)
    matrix = empty(batch, 1, d_state, dtype=torch.bfloat16)
    parameters = empty(1, dim)
    indices = empty(batch, dtype=torch.int32) if places else None
    launch = triton_backend.plan(
        empty(batch, 1, dim, d_state),
        x,
        x,
        empty(1, dim, d_state),
        matrix,
        matrix,
        parameters,
        x,
        parameters,
        True,
        indices,
    )
    compiled = Compiled(launch, tmp_path)
    compiled.assert_sound()
    # States are read and written as 128-bit words.
    assert compiled.count(r"STG\.E\.128") >= 1
