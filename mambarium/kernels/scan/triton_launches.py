"""Launch of the scan's Triton kernels: allocations, arguments, and the sums of the backward's second stage.

The scan and the grid scan share them: a grid's routes are groups of channels, each of which visits the positions in
an order of its own.
"""

import torch
from torch import Tensor

from mambarium.kernels.scan.description import Gradients, Order, Scan
from mambarium.kernels.scan.triton_backward_kernel import scan_backward_kernel
from mambarium.kernels.scan.triton_kernels import scan_forward_kernel
from mambarium.kernels.scan.triton_segments import adjoint_entries, forward_entries
from mambarium.kernels.triton_configuration import (
    BACKWARD_TILE,
    INTERPRETED,
    LANES,
    MAX_STATES,
    ScanConfiguration,
    Segments,
    count_processors,
    plan_segments,
    scan_configuration,
)
from mambarium.kernels.triton_launch import Launch, contiguous

OPTIONS = {"num_warps": 1, "num_stages": 1}


def checkpoint_shape(batch: int, length: int, dim: int, groups: int, d_state: int) -> tuple[int, ...]:
    """Return the shape of the checkpoints: the states at the start of every BACKWARD_TILE positions."""
    return batch, -(-length // BACKWARD_TILE), d_state, dim


def run_forward(scan: Scan, out: Tensor, save_for_backward: bool) -> tuple[Tensor, Tensor]:
    """Fill out, of delta's shape, and return the last state and the checkpoints, (0,) if not to be saved."""
    batch, _, dim, _, d_state = scan.sizes
    if scan.initial_state is not None:
        scan = scan._replace(initial_state=scan.initial_state.contiguous())
    scan = scan._replace(A=scan.A.contiguous())
    shape = checkpoint_shape(*scan.sizes) if save_for_backward else (0,)
    checkpoints = torch.empty(shape, dtype=torch.float32, device=out.device)
    last_state = torch.empty(batch, dim, d_state, dtype=torch.float32, device=out.device)
    if d_state <= MAX_STATES:
        _run_slice(scan, out, last_state, checkpoints if save_for_backward else None)
        return last_state, checkpoints

    # The states don't interact: each slice of them is a scan of its own, and the outputs add up.
    width = -(-d_state // -(-d_state // MAX_STATES))
    total = torch.zeros(out.shape, dtype=torch.float32, device=out.device)
    for start in range(0, d_state, width):
        part = slice(start, min(start + width, d_state))
        part_out = torch.empty_like(total)
        part_saved = checkpoints.new_empty((*shape[:2], part.stop - start, dim)) if save_for_backward else None
        part_scan = scan._replace(
            A=scan.A[:, part],
            B=scan.B[..., part],
            C=scan.C[..., part],
            D=scan.D if start == 0 else None,
            z=None,
            initial_state=None if scan.initial_state is None else scan.initial_state[..., part],
        )
        _run_slice(part_scan, part_out, last_state[..., part], part_saved)
        total += part_out
        if part_saved is not None:
            checkpoints[:, :, part] = part_saved
    if scan.z is not None:
        total *= torch.nn.functional.silu(scan.z.float())
    out.copy_(total)
    return last_state, checkpoints


def run_backward(
    scan: Scan, grad_out: Tensor, grad_last_state: Tensor | None, checkpoints: Tensor, gradients: Gradients
) -> None:
    """Write the gradients of all inputs; that of u is of delta's shape: every group's own."""
    batch, length, dim, groups, d_state = scan.sizes
    device = grad_out.device
    processors = count_processors(device)
    segments = plan_segments(batch, length, dim, groups, processors)
    configuration = scan_configuration(batch * segments.number, length, dim, groups, d_state, processors)
    launch = plan_backward(scan, grad_out, grad_last_state, checkpoints, gradients, segments, configuration)
    if segments.number > 1:
        for entries in adjoint_entries(launch, grad_last_state):
            entries.run(device)
    launch.run(device)
    parts = launch.arguments

    # (batch, groups, tiles, d_state, 2, tile), then steps first.
    summed = parts["BC_parts"].sum(dim=2).unflatten(-1, (2, BACKWARD_TILE))
    by_step = summed.permute(0, 2, 5, 1, 3, 4).flatten(1, 2)[:, :length]
    if scan.reverse:
        by_step = by_step.flip(1)
    if scan.order is not None:
        by_step = torch.take_along_dim(by_step, scan.order.scatter[..., None], dim=1)
    gradients.A.copy_(parts["A_parts"].sum(dim=0).t())
    gradients.B.copy_(by_step[..., 0])
    gradients.C.copy_(by_step[..., 1])
    if gradients.D is not None:
        gradients.D.copy_(parts["D_parts"].sum(dim=0))
    if gradients.delta_bias is not None:
        gradients.delta_bias.copy_(parts["bias_parts"].sum(dim=0))
    if gradients.initial_state is not None:
        # Of every batch element, the gradient of what its first segment starts from.
        gradients.initial_state.copy_(parts["adjoint"][:: segments.number].transpose(1, 2))


def plan_forward(
    scan: Scan,
    out: Tensor,
    last_state: Tensor,
    checkpoints: Tensor | None,
    segments: Segments,
    configuration: ScanConfiguration,
) -> Launch:
    """Return the forward's launch, which fills out, last_state and checkpoints.

    Args:
        scan: the inputs, with adjacent states in A and initial_state, up to MAX_STATES of them.
        out: as delta.
        last_state: (batch, dim, d_state) float32, states adjacent.
        checkpoints: of `checkpoint_shape`, or None to save none.
        segments: with several, the launch's initial_state is left for `forward_entries` to fill.
        configuration: tile and channels of a lane.
    """
    batch, length, dim, groups, d_state = scan.sizes
    entries, entry_strides = scan.initial_state, None
    if entries is not None:
        entry_strides = (entries.stride(0), 0, entries.stride(1), 1)
    if segments.number > 1:
        entries = torch.empty(batch * segments.number, d_state, dim, dtype=torch.float32, device=out.device)
        entry_strides = (segments.number * d_state * dim, d_state * dim, 1, dim)
    tile, channels = configuration.forward_tile, configuration.forward_channels
    arguments = {
        "u": scan.u,
        "delta": scan.delta,
        "A": scan.A,
        "B": scan.B,
        "C": scan.C,
        "D": contiguous(scan.D),
        "z": scan.z,
        "delta_bias": contiguous(scan.delta_bias),
        "initial_state": entries,
        "reset": _as_bytes(scan.reset),
        "order": None if scan.order is None else scan.order.positions,
        "out": out,
        "last_state": last_state,
        "checkpoints": checkpoints,
        "u_strides": _row_strides(scan.u),
        "delta_strides": _row_strides(scan.delta),
        "A_stride": scan.A.stride(0),
        "B_strides": _matrix_strides(scan.B, scan.order),
        "C_strides": _matrix_strides(scan.C, scan.order),
        "z_strides": _row_strides(scan.z),
        "initial_strides": entry_strides,
        "reset_strides": None if scan.reset is None else _within_32_bits(scan.reset.stride()),
        "out_strides": _row_strides(out),
        "last_strides": last_state.stride(),
        "length": length,
        "dim": dim,
        "groups": groups,
        "segments": segments.number,
        "segment_chunks": segments.positions // BACKWARD_TILE,
        "D_STATE": d_state,
        "DELTA_SOFTPLUS": scan.delta_softplus,
        "B_WORD": _values_per_word(scan.B),
        "C_WORD": _values_per_word(scan.C),
        "LANES": LANES,
        "CHANNELS": channels,
        "TILE": tile,
        "CHUNK_TILES": BACKWARD_TILE // tile,
    }
    programs = batch * segments.number * groups * -(-(dim // groups) // (LANES * channels))
    backwards = ("u", "delta", "B", "C", "z", "reset", "out") if scan.reverse else ()
    return Launch(scan_forward_kernel, programs, arguments, OPTIONS, backwards)


def plan_backward(
    scan: Scan,
    grad_out: Tensor,
    grad_last_state: Tensor | None,
    checkpoints: Tensor,
    gradients: Gradients,
    segments: Segments,
    configuration: ScanConfiguration,
) -> Launch:
    """Return the backward's launch, with the tensors that it fills among its arguments.

    It fills the gradients of u, of delta's shape, delta and z itself, of the others sums of parts. With several
    segments, the launch's adjoint is left for `adjoint_entries` to fill.
    """
    batch, length, dim, groups, d_state = scan.sizes
    # With gate and resets, the code for two channels is so long that compiling it takes minutes.
    channels = 1 if scan.z is not None and scan.reset is not None else configuration.backward_channels
    blocks = -(-(dim // groups) // (LANES * channels))
    tiles = -(-length // BACKWARD_TILE)

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=grad_out.device)

    B, C = _in_visiting_order(scan.B, scan), _in_visiting_order(scan.C, scan)
    rows = batch * segments.number
    adjoint = new(rows, d_state, dim)
    if segments.number == 1:
        adjoint.zero_() if grad_last_state is None else adjoint.copy_(grad_last_state.transpose(1, 2))
    arguments = {
        "grad_out": grad_out,
        "u": scan.u,
        "delta": scan.delta,
        "A": scan.A.t().contiguous(),
        "BC": _tile_rows(B, C, tiles),
        "D": contiguous(scan.D),
        "z": scan.z,
        "delta_bias": contiguous(scan.delta_bias),
        "reset": _as_bytes(scan.reset),
        "order": None if scan.order is None else scan.order.positions,
        "checkpoints": checkpoints,
        "adjoint": adjoint,
        "grad_u": gradients.u,
        "grad_delta": gradients.delta,
        "grad_z": gradients.z,
        "A_parts": new(rows, d_state, dim).zero_(),
        "BC_parts": new(batch, groups, blocks, tiles, d_state, 2 * BACKWARD_TILE),
        "D_parts": None if scan.D is None else new(rows, dim),
        "bias_parts": None if scan.delta_bias is None else new(rows, dim),
        "grad_out_strides": _row_strides(grad_out),
        "u_strides": _row_strides(scan.u),
        "delta_strides": _row_strides(scan.delta),
        "z_strides": _row_strides(scan.z),
        "reset_strides": None if scan.reset is None else _within_32_bits(scan.reset.stride()),
        "grad_u_strides": _row_strides(gradients.u),
        "grad_delta_strides": _row_strides(gradients.delta),
        "grad_z_strides": _row_strides(gradients.z),
        "length": length,
        "dim": dim,
        "groups": groups,
        "d_state": d_state,
        "segments": segments.number,
        "segment_tiles": segments.positions // BACKWARD_TILE,
        "DELTA_SOFTPLUS": scan.delta_softplus,
        "LANES": LANES,
        "CHANNELS": channels,
        "TILE": BACKWARD_TILE,
        # The interpreter and other vendors' GPUs have no assembly of NVIDIA's.
        "PTX": not INTERPRETED and torch.version.hip is None,
    }
    visited = ("grad_out", "u", "delta", "z", "reset", "grad_u", "grad_delta", "grad_z")
    programs = rows * groups * blocks
    return Launch(scan_backward_kernel, programs, arguments, OPTIONS, visited if scan.reverse else ())


def _run_slice(scan: Scan, out: Tensor, last_state: Tensor, checkpoints: Tensor | None) -> None:
    batch, length, dim, groups, d_state = scan.sizes
    processors = count_processors(out.device)
    segments = plan_segments(batch, length, dim, groups, processors)
    configuration = scan_configuration(batch * segments.number, length, dim, groups, d_state, processors)
    launch = plan_forward(scan, out, last_state, checkpoints, segments, configuration)
    if segments.number > 1:
        for entries in forward_entries(launch, scan.initial_state):
            entries.run(out.device)
    launch.run(out.device)


def _in_visiting_order(values: Tensor, scan: Scan) -> Tensor:
    """B or C, whose axis of length each group visits from the first to the last."""
    if scan.order is not None:
        return torch.take_along_dim(values, scan.order.gather, dim=1)
    return values.flip(1) if scan.reverse else values


def _tile_rows(B: Tensor, C: Tensor, tiles: int) -> Tensor:
    """B and C as float32 rows of whole tiles: (batch, groups, tiles, d_state, 2 * BACKWARD_TILE).

    They are a small part of the data, each value is read by every block of channels, and in this order a
    state's values of a tile are adjacent.
    """
    batch, length, groups, d_state = B.shape
    rows = torch.zeros(batch, groups, tiles, d_state, 2, BACKWARD_TILE, dtype=torch.float32, device=B.device)
    by_step = rows.permute(0, 2, 5, 1, 3, 4)  # (batch, tiles, tile, groups, d_state, 2)
    whole = length // BACKWARD_TILE
    for which, values in enumerate((B, C)):
        target = by_step[..., which]
        target[:, :whole] = values[:, : whole * BACKWARD_TILE].unflatten(1, (whole, BACKWARD_TILE))
        if whole < tiles:
            target[:, whole, : length - whole * BACKWARD_TILE] = values[:, whole * BACKWARD_TILE :]
    return rows.flatten(-2)


def _values_per_word(values: Tensor) -> int:
    """How many values of a position can be loaded as one 64-bit word: 1 if the memory doesn't allow it."""
    word = 8 // values.element_size()
    aligned = values.data_ptr() % 8 == 0 and all(stride % word == 0 for stride in values.stride()[:3])
    return word if aligned and values.stride(3) == 1 and values.shape[3] % word == 0 else 1


def _row_strides(tensor: Tensor | None) -> tuple[int, ...] | None:
    """Strides of (batch, time, channel), and with groups that of what is to be added for each group.

    Kernels count channels through all groups, as if the groups' channels followed each other in memory.
    """
    if tensor is None:
        return None
    if tensor.dim() == 3:
        return _within_32_bits(tensor.stride())
    batch, time, group, channel = tensor.stride()
    return batch, time, channel, (group if tensor.shape[2] > 1 else 0) - tensor.shape[3] * channel


def _matrix_strides(matrix: Tensor, order: Order | None) -> tuple[int, ...]:
    return matrix.stride() if order is not None else _within_32_bits(matrix.stride())


def _within_32_bits(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Within a tile the kernels multiply the stride of time in 32 bits, unless an order gives 64-bit positions."""
    if strides[1] >= 2**27:
        raise ValueError(
            f"strides: backend 'triton' expects less than 2**27 elements between positions; found {strides[1]}"
        )
    return strides


def _as_bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)
