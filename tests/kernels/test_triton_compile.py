"""What the Triton kernels compile to for a GPU of compute capability 9.0, which needs no GPU."""

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
    torch.uint8: "*u8",
}
DEVICE = "meta"

pytestmark = pytest.mark.skipif(
    triton.knobs.runtime.interpret, reason="kernels of the interpreter can't be compiled in the same process"
)


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


def scan_inputs(d_state, *, gate, batch=32, length=2048, dim=2048):
    """u, delta, A, B, C, D, z, delta_bias in bfloat16, with float32 parameters."""
    rows = [empty(batch, length, dim, dtype=torch.bfloat16) for _ in range(3)]
    matrices = [empty(batch, length, 1, d_state, dtype=torch.bfloat16) for _ in range(2)]
    z = rows[2] if gate else None
    return rows[0], rows[1], empty(dim, d_state), *matrices, empty(dim), z, empty(dim)


@pytest.mark.parametrize(("d_state", "most_per_state_step"), [(16, 9), (1, 60)])
def test_scan_forward(d_state, most_per_state_step, tmp_path, record_property):
    from mambarium.kernels.scan import triton_backend

    u, *rest = scan_inputs(d_state, gate=False)
    batch, length, dim = u.shape
    checkpoints = empty(*triton_backend.checkpoint_shape(batch, length, dim, d_state, 1))
    last_state = empty(batch, dim, d_state)
    segments = triton_backend.Segments(1, length)
    launch = triton_backend.plan_forward(u, *rest, None, None, True, u, last_state, checkpoints, segments)
    compiled = Compiled(launch, tmp_path)
    compiled.assert_sound()
    assert compiled.count("SHFL|BAR") == 0

    loop, _ = compiled.loops  # over tiles, within that over checkpoints
    state_steps = d_state * launch.arguments["TILE"] * launch.arguments["CHANNELS"]
    per_state_step = len(loop) / state_steps
    record_property("registers", compiled.registers)
    record_property("instructions_per_state_step", per_state_step)
    print(f"d_state {d_state}: {compiled.registers} registers, {per_state_step:.2f} instructions per state step")
    # An exponential per state and step, two for the steps' softplus: nothing is computed twice.
    assert compiled.count("MUFU", loop) <= state_steps * (1 + 2 / d_state)
    assert per_state_step <= most_per_state_step


@pytest.mark.parametrize(("gate", "most_per_state_step"), [(False, 25), (True, 28)])
def test_scan_backward(gate, most_per_state_step, tmp_path, record_property):
    from mambarium.kernels.scan import triton_backend

    d_state = 16
    u, delta, A, *rest = scan_inputs(d_state, gate=gate)
    batch, length, dim = u.shape
    checkpoints = empty(*triton_backend.checkpoint_shape(batch, length, dim, d_state, 1))
    grad_last_state = empty(batch, dim, d_state)
    segments = triton_backend.Segments(1, length)
    launch = triton_backend.plan_backward(u, grad_last_state, u, delta, A, *rest, None, True, checkpoints, segments)
    compiled = Compiled(launch, tmp_path)
    compiled.assert_sound()
    assert compiled.count("BAR") == 0

    # The loop over states lies in that over tiles.
    states, tiles = compiled.loops
    lane_steps = launch.arguments["TILE"] * launch.arguments["CHANNELS"]
    per_state_step = len(states) / lane_steps + (len(tiles) - len(states)) / (lane_steps * d_state)
    record_property("registers", compiled.registers)
    record_property("instructions_per_state_step", per_state_step)
    print(f"gate {gate}: {compiled.registers} registers, {per_state_step:.2f} instructions per state step")
    # Two sums over the lanes per state and tile row, in a transposing butterfly.
    assert compiled.count("SHFL", states) <= 2 * launch.arguments["TILE"] + 2
    assert per_state_step <= most_per_state_step


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_scan_of_segments_side_by_side(direction, tmp_path):
    from mambarium.kernels.scan import triton_backend

    d_state = 16
    u, delta, A, *rest = scan_inputs(d_state, gate=True, batch=1, length=2**20, dim=16)
    batch, length, dim = u.shape
    state = empty(batch, dim, d_state)
    checkpoints = empty(*triton_backend.checkpoint_shape(batch, length, dim, d_state, 1))
    segments = triton_backend.plan_segments(batch, length, dim, 1, triton_backend.BACKWARD_TILE, 132)
    if direction == "forward":
        scan = triton_backend.plan_forward(u, delta, A, *rest, None, None, True, u, state, checkpoints, segments)
        summary, carry = triton_backend.forward_entries(scan, None)
    else:
        scan = triton_backend.plan_backward(u, state, u, delta, A, *rest, None, True, checkpoints, segments)
        summary, carry = triton_backend.adjoint_entries(scan, state)
    # Two warps for each of a processor's four schedulers.
    assert scan.programs == summary.programs >= 0.95 * 8 * 132

    compiled = Compiled(summary, tmp_path)
    compiled.assert_sound()
    assert compiled.count("SHFL|BAR") == 0
    (loop,) = compiled.loops
    per_state_step = len(loop) / (d_state * summary.arguments["TILE"])
    print(f"{direction} summary: {compiled.registers} registers, {per_state_step:.2f} instructions per state step")
    assert per_state_step <= 9
    Compiled(carry, tmp_path).assert_sound()
    Compiled(scan, tmp_path).assert_sound()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_conv(direction, tmp_path):
    from mambarium.kernels.conv import triton_backend

    x = empty(8, 2048, 2048, dtype=torch.bfloat16)
    inputs = (x, empty(2048, 4), empty(2048), None, None, True)
    if direction == "forward":
        launch = triton_backend.plan_forward(*inputs)
    else:
        launch = triton_backend.plan_backward(x, *inputs)
    Compiled(launch, tmp_path).assert_sound()
