"""The selective scan on a GPU: allocations, launches and second-stage sums around the Triton kernels.

The configuration is a static table: nothing is measured at import or at the first call.
"""

import torch
import triton
from torch import Tensor

from mambarium.kernels.scan.triton_backward_kernel import scan_backward_kernel
from mambarium.kernels.scan.triton_kernels import scan_forward_kernel
from mambarium.kernels.scan.triton_segments import (
    MAX_STATES,
    Segments,
    adjoint_entries,
    count_processors,
    forward_entries,
    plan_segments,
)
from mambarium.kernels.triton_launch import Launch, contiguous, strides

INTERPRETED = bool(triton.knobs.runtime.interpret)

# Positions per tile of the backward, which is also the distance of the checkpoints: what fits into registers.
# The interpreter takes milliseconds per position, those past the end included.
BACKWARD_TILE = 4 if INTERPRETED else 8
# Positions per tile of the forward: more hide more of the memory's latency and take more registers.
FORWARD_TILE = BACKWARD_TILE // 2
# Warps that fill a large GPU; below, a lane takes one channel, so that there are more of them.
MANY_WARPS = 1024


def checkpoint_shape(batch: int, length: int, dim: int, d_state: int, groups: int) -> tuple[int, ...]:
    """Shape of the checkpoints: the states at the start of every BACKWARD_TILE positions."""
    return (batch, -(-length // BACKWARD_TILE), d_state, dim)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    save_for_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scans; see `mambarium.kernels.scan.interface.ScanBackend`."""
    batch, length, dim = u.shape
    groups, d_state = B.shape[2:]
    A = A.contiguous()
    last_state = torch.empty(batch, dim, d_state, dtype=torch.float32, device=u.device)
    shape = checkpoint_shape(batch, length, dim, d_state, groups) if save_for_backward else (0,)
    checkpoints = torch.empty(shape, dtype=torch.float32, device=u.device)
    saved = checkpoints if save_for_backward else None
    if initial_state is not None:
        initial_state = initial_state.contiguous()

    if d_state <= MAX_STATES:
        out = torch.empty_like(u)
        run_forward(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, out, last_state, saved)
        return out, last_state, checkpoints

    # The states don't interact: each slice of them is a scan of its own, and the outputs add up.
    slices = -(-d_state // MAX_STATES)
    width = -(-d_state // slices)
    total = torch.zeros_like(u, dtype=torch.float32)
    for start in range(0, d_state, width):
        part = slice(start, min(start + width, d_state))
        out = torch.empty_like(u, dtype=torch.float32)
        part_saved = None
        if save_for_backward:
            part_saved = checkpoints.new_empty((*shape[:2], part.stop - start, dim))
        run_forward(
            u,
            delta,
            A[:, part],
            B[..., part],
            C[..., part],
            D if start == 0 else None,
            None,
            delta_bias,
            None if initial_state is None else initial_state[..., part],
            reset,
            delta_softplus,
            out,
            last_state[..., part],
            part_saved,
        )
        total += out
        if part_saved is not None:
            checkpoints[:, :, part] = part_saved
    if z is not None:
        total *= torch.nn.functional.silu(z.float())
    out = torch.empty_like(u)
    out.copy_(total)
    return out, last_state, checkpoints


def scan_backward(
    grad_out: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    checkpoints: Tensor,
) -> tuple[
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor | None,
    Tensor | None,
    Tensor | None,
    Tensor | None,
]:
    """Gradients of all inputs; see `mambarium.kernels.scan.interface.ScanBackend`."""
    batch, length, dim = u.shape
    segments = plan_segments(batch, length, dim, B.shape[2], BACKWARD_TILE, count_processors(u.device))
    scan = plan_backward(
        grad_out, grad_last_state, u, delta, A, B, C, D, z, delta_bias, reset, delta_softplus, checkpoints, segments
    )
    if segments.number > 1:
        for launch in adjoint_entries(scan, grad_last_state):
            launch.run(u.device)
    scan.run(u.device)
    parts = scan.arguments

    # (batch, groups, tiles, d_state, 2, tile), then positions first.
    summed = parts["BC_parts"].sum(dim=2).unflatten(-1, (2, BACKWARD_TILE))
    by_position = summed.permute(0, 2, 5, 1, 3, 4).flatten(1, 2)[:, : u.shape[1]]
    grad_B = torch.empty_like(B).copy_(by_position[..., 0])
    grad_C = torch.empty_like(C).copy_(by_position[..., 1])
    grad_A = torch.empty_like(A).copy_(parts["A_parts"].sum(dim=0).t())
    grad_D = None if D is None else torch.empty_like(D).copy_(parts["D_parts"].sum(dim=0))
    grad_bias = None if delta_bias is None else torch.empty_like(delta_bias).copy_(parts["bias_parts"].sum(dim=0))
    grad_initial = None
    if initial_state is not None:
        # Of every batch element, the gradient of what its first segment starts from.
        grad_initial = torch.empty_like(initial_state).copy_(parts["adjoint"][:: segments.number].transpose(1, 2))
    return (
        parts["grad_u"],
        parts["grad_delta"],
        grad_A,
        grad_B,
        grad_C,
        grad_D,
        parts["grad_z"],
        grad_bias,
        grad_initial,
    )


def run_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    out: Tensor,
    last_state: Tensor,
    checkpoints: Tensor | None,
) -> None:
    """Fills out, last_state and checkpoints; arguments as those of `plan_forward`."""
    batch, length, dim = u.shape
    segments = plan_segments(batch, length, dim, B.shape[2], BACKWARD_TILE, count_processors(u.device))
    scan = plan_forward(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        initial_state,
        reset,
        delta_softplus,
        out,
        last_state,
        checkpoints,
        segments,
    )
    if segments.number > 1:
        for launch in forward_entries(scan, initial_state):
            launch.run(u.device)
    scan.run(u.device)


def plan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    out: Tensor,
    last_state: Tensor,
    checkpoints: Tensor | None,
    segments: Segments,
) -> Launch:
    """The forward's launch, which fills out, last_state and checkpoints.

    Args:
        A: (dim, d_state), adjacent states, as in initial_state and last_state; d_state up to MAX_STATES.
        checkpoints: of `checkpoint_shape`, or None to save none.
        segments: with several, the launch's initial_state is left for `forward_entries` to fill.
    """
    batch, length, dim = u.shape
    groups, d_state = B.shape[2:]
    lanes = 32
    channels = lane_channels(batch * segments.number, dim, groups)
    entries = initial_state
    entry_strides = None if initial_state is None else (initial_state.stride(0), 0, initial_state.stride(1), 1)
    if segments.number > 1:
        entries = torch.empty(batch * segments.number, d_state, dim, dtype=torch.float32, device=u.device)
        entry_strides = (segments.number * d_state * dim, d_state * dim, 1, dim)
    arguments = {
        "u": u,
        "delta": delta,
        "A": A,
        "B": B,
        "C": C,
        "D": contiguous(D),
        "z": z,
        "delta_bias": contiguous(delta_bias),
        "initial_state": entries,
        "reset": as_bytes(reset),
        "out": out,
        "last_state": last_state,
        "checkpoints": checkpoints,
        "u_strides": row_strides(u),
        "delta_strides": row_strides(delta),
        "A_stride": A.stride(0),
        "B_strides": row_strides(B),
        "C_strides": row_strides(C),
        "z_strides": row_strides(z),
        "initial_strides": entry_strides,
        "reset_strides": row_strides(reset),
        "out_strides": row_strides(out),
        "last_strides": last_state.stride(),
        "length": length,
        "dim": dim,
        "groups": groups,
        "segments": segments.number,
        "segment_chunks": segments.positions // BACKWARD_TILE,
        "D_STATE": d_state,
        "DELTA_SOFTPLUS": delta_softplus,
        "B_WORD": values_per_word(B),
        "C_WORD": values_per_word(C),
        "LANES": lanes,
        "CHANNELS": channels,
        "TILE": FORWARD_TILE,
        "CHUNK_TILES": BACKWARD_TILE // FORWARD_TILE,
    }
    programs = batch * segments.number * groups * -(-(dim // groups) // (lanes * channels))
    return Launch(scan_forward_kernel, programs, arguments, {"num_warps": 1, "num_stages": 1})


def plan_backward(
    grad_out: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    checkpoints: Tensor,
    segments: Segments,
) -> Launch:
    """The backward's launch, with the tensors that it fills among its arguments.

    With several segments, the launch's adjoint is left for `adjoint_entries` to fill.
    """
    batch, length, dim = u.shape
    groups, d_state = B.shape[2:]
    # A warp per program: sums over its lanes need no shared memory.
    lanes = 32
    channels = lane_channels(batch * segments.number, dim, groups)
    blocks = -(-(dim // groups) // (lanes * channels))
    tiles = -(-length // BACKWARD_TILE)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=u.device)

    grad_u = torch.empty_like(u)
    grad_delta = torch.empty_like(delta)
    grad_z = None if z is None else torch.empty_like(z)
    rows = batch * segments.number
    adjoint = new(rows, d_state, dim)
    if segments.number == 1:
        adjoint.copy_(grad_last_state.transpose(1, 2))
    arguments = {
        "grad_out": grad_out,
        "u": u,
        "delta": delta,
        "A": A.t().contiguous(),
        "BC": tile_rows(B, C, tiles),
        "D": contiguous(D),
        "z": z,
        "delta_bias": contiguous(delta_bias),
        "reset": as_bytes(reset),
        "checkpoints": checkpoints,
        "adjoint": adjoint,
        "grad_u": grad_u,
        "grad_delta": grad_delta,
        "grad_z": grad_z,
        "A_parts": new(rows, d_state, dim).zero_(),
        "BC_parts": new(batch, groups, blocks, tiles, d_state, 2 * BACKWARD_TILE),
        "D_parts": None if D is None else new(rows, dim),
        "bias_parts": None if delta_bias is None else new(rows, dim),
        "grad_out_strides": row_strides(grad_out),
        "u_strides": row_strides(u),
        "delta_strides": row_strides(delta),
        "z_strides": row_strides(z),
        "reset_strides": row_strides(reset),
        "grad_u_strides": row_strides(grad_u),
        "grad_delta_strides": row_strides(grad_delta),
        "grad_z_strides": row_strides(grad_z),
        "length": length,
        "dim": dim,
        "groups": groups,
        "d_state": d_state,
        "segments": segments.number,
        "segment_tiles": segments.positions // BACKWARD_TILE,
        "DELTA_SOFTPLUS": delta_softplus,
        "LANES": lanes,
        "CHANNELS": channels,
        "TILE": BACKWARD_TILE,
        # The interpreter and other vendors' GPUs have no assembly of NVIDIA's.
        "PTX": not INTERPRETED and torch.version.hip is None,
    }
    return Launch(scan_backward_kernel, rows * groups * blocks, arguments, {"num_warps": 1, "num_stages": 1})


def lane_channels(batch: int, dim: int, groups: int) -> int:
    """Channels per lane: two share the loads of B and C and the sums over lanes, where enough warps remain."""
    return 2 if dim // groups > 32 and batch * dim // 64 >= MANY_WARPS else 1


def tile_rows(B: Tensor, C: Tensor, tiles: int) -> Tensor:
    """B and C as float32 rows of whole tiles: (batch, groups, tiles, d_state, 2 * BACKWARD_TILE).

    They are a small part of the data, each value is read by every block of channels, and in this order a
    state's values of a tile are adjacent.
    """
    batch, length, groups, d_state = B.shape
    rows = torch.zeros(batch, groups, tiles, d_state, 2, BACKWARD_TILE, dtype=torch.float32, device=B.device)
    by_position = rows.permute(0, 2, 5, 1, 3, 4)  # (batch, tiles, tile, groups, d_state, 2)
    whole = length // BACKWARD_TILE
    for which, values in enumerate((B, C)):
        target = by_position[..., which]
        target[:, :whole] = values[:, : whole * BACKWARD_TILE].unflatten(1, (whole, BACKWARD_TILE))
        if whole < tiles:
            target[:, whole, : length - whole * BACKWARD_TILE] = values[:, whole * BACKWARD_TILE :]
    return rows.flatten(-2)


def values_per_word(values: Tensor) -> int:
    """How many values of a position can be loaded as one 64-bit word: 1 if the memory doesn't allow it."""
    word = 8 // values.element_size()
    aligned = values.data_ptr() % 8 == 0 and all(stride % word == 0 for stride in values.stride()[:3])
    return word if aligned and values.stride(3) == 1 and values.shape[3] % word == 0 else 1


def row_strides(tensor: Tensor | None) -> tuple[int, ...] | None:
    """The tensor's strides, of which the kernels multiply that of time within 32 bits."""
    if tensor is not None and tensor.stride(1) >= 2**27:
        raise ValueError(
            f"strides: backend 'triton' expects less than 2**27 elements between positions; found {tensor.stride(1)}"
        )
    return strides(tensor)


def as_bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)
