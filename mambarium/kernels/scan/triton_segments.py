"""Segments of time that are scanned side by side, where channels and batch elements alone leave a GPU idle."""

from typing import NamedTuple

import torch
from torch import Tensor

from mambarium.kernels.scan.triton_segment_kernels import segment_carry_kernel, segment_summary_kernel
from mambarium.kernels.triton_launch import Launch

# The kernels' registers leave room for about so many warps on a processor of the GPU.
WARPS_PER_PROCESSOR = 8
# A shorter segment is over before it pays for the launches that find what enters it.
MIN_POSITIONS = 256
# Finding what enters the segments costs more than half a scan: two segments would gain next to nothing.
MIN_SEGMENTS = 3
# States that a launch keeps in registers.
MAX_STATES = 32


class Segments(NamedTuple):
    """How time is divided.

    Attributes:
        number: of segments.
        positions: of each segment but the last, which may be shorter; a multiple of the backward's tile.
    """

    number: int
    positions: int


def plan_segments(batch: int, length: int, dim: int, groups: int, tile: int, processors: int) -> Segments:
    """As many segments as fill the GPU: a static rule, the same for the same shapes on the same GPU."""
    warps = batch * groups * -(-(dim // groups) // 32)
    number = min(processors * WARPS_PER_PROCESSOR // warps, length // MIN_POSITIONS)
    if number < MIN_SEGMENTS:
        number = 1
    positions = -(-length // (number * tile)) * tile
    return Segments(-(-length // positions), positions)


def count_processors(device: torch.device) -> int:
    """The GPU's streaming multiprocessors; one for the interpreter, whose tensors are on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def forward_entries(scan: Launch, start: Tensor | None) -> list[Launch]:
    """The launches that find what a forward scan's segments start from, its argument initial_state.

    Args:
        scan: the launch of the scan.
        start: the state before the first position, (batch, dim, d_state), or None for zeros.
    """
    given = scan.arguments
    tile = given["TILE"]
    values = {
        "values": given["u"],
        "gate": None,
        "A": given["A"],
        "weights": given["B"],
        "values_strides": given["u_strides"],
        "gate_strides": None,
        "A_strides": (given["A_stride"], 1),
        "weights_strides": (*given["B_strides"], tile * given["B_strides"][1]),
        "D_STATE": given["D_STATE"],
        "WORD": given["B_WORD"],
        "segment_tiles": given["segment_chunks"] * given["CHUNK_TILES"],
    }
    ends = given["initial_state"]
    decays = torch.empty_like(ends)
    summary = _summary(scan, values, ends, decays, adjoint=False)
    return [summary, _carry(start, ends, decays, given["segments"], adjoint=False)]


def adjoint_entries(scan: Launch, start: Tensor) -> list[Launch]:
    """The launches that find what a backward scan's segments start from, its argument adjoint.

    Args:
        scan: the launch of the scan.
        start: the gradient of the last state, (batch, dim, d_state).
    """
    given = scan.arguments
    d_state, tile = given["d_state"], given["TILE"]
    ends = given["adjoint"]
    decays = torch.empty_like(ends)
    launches = []
    for first in range(0, d_state, MAX_STATES):
        values = {
            "values": given["grad_out"],
            "gate": given["z"],
            "A": given["A"][first:],
            # Rows of BC: a tile's values of B, then of C.
            "weights": given["BC"][..., first:, tile:],
            "values_strides": given["grad_out_strides"],
            "gate_strides": given["z_strides"],
            "A_strides": (1, given["dim"]),
            "weights_strides": (given["BC"].stride(0), 1, given["BC"].stride(1), 2 * tile, given["BC"].stride(2)),
            "D_STATE": min(d_state - first, MAX_STATES),
            "WORD": 1,
            "segment_tiles": given["segment_tiles"],
        }
        launches.append(_summary(scan, values, ends[:, first:], decays[:, first:], adjoint=True))
    return [*launches, _carry(start, ends, decays, given["segments"], adjoint=True)]


def _summary(scan: Launch, values: dict[str, object], ends: Tensor, decays: Tensor, adjoint: bool) -> Launch:
    given = scan.arguments
    batch_segments, (dim, groups) = ends.shape[0], (given["dim"], given["groups"])
    shared = ("delta", "delta_bias", "reset", "delta_strides", "reset_strides", "length", "dim", "groups", "segments")
    arguments = {
        **values,
        **{name: given[name] for name in (*shared, "DELTA_SOFTPLUS", "LANES", "TILE")},
        "ends": ends,
        "decays": decays,
        "d_state": ends.stride(0) // dim,
        "ADJOINT": adjoint,
    }
    programs = batch_segments * groups * -(-(dim // groups) // given["LANES"])
    return Launch(segment_summary_kernel, programs, arguments, {"num_warps": 1, "num_stages": 1})


def _carry(start: Tensor | None, ends: Tensor, decays: Tensor, segments: int, adjoint: bool) -> Launch:
    batch, values, lanes = ends.shape[0] // segments, ends.shape[1] * ends.shape[2], 32
    arguments = {
        "start": None if start is None else start.transpose(1, 2).contiguous(),
        "ends": ends,
        "decays": decays,
        "segments": segments,
        "values": values,
        "ADJOINT": adjoint,
        "LANES": lanes,
        "AHEAD": 16,
    }
    return Launch(segment_carry_kernel, batch * -(-values // lanes), arguments, {"num_warps": 1, "num_stages": 1})
