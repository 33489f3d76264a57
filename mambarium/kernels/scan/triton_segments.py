"""What enters the segments of time that are scanned side by side where channels and batch leave a GPU idle.

When they are, `mambarium.kernels.triton_configuration` says.
"""

import torch
from torch import Tensor

from mambarium.kernels.scan.triton_segment_kernels import segment_carry_kernel, segment_summary_kernel
from mambarium.kernels.triton_configuration import LANES, MAX_STATES
from mambarium.kernels.triton_launch import Launch


def forward_entries(scan: Launch, start: Tensor | None) -> list[Launch]:
    """Return the launches that find what a forward scan's segments start from, its argument initial_state.

    Args:
        scan: the launch of the scan.
        start: the state before the first position, (batch, dim, d_state), or None for zeros.
    """
    given = scan.arguments
    weights, weights_strides = given["B"], given["B_strides"]
    if scan.backwards:
        weights, weights_strides = weights[:, -1:], (weights_strides[0], -weights_strides[1], *weights_strides[2:])
    # With an order positions count from the first one of all, without one from the tile's.
    tile_stride = 0 if given["order"] is not None else given["TILE"] * weights_strides[1]
    values = {
        "values": given["u"],
        "gate": None,
        "A": given["A"],
        "weights": weights,
        "values_strides": given["u_strides"],
        "gate_strides": None,
        "A_strides": (given["A_stride"], 1),
        "weights_strides": (*weights_strides, tile_stride),
        "D_STATE": given["D_STATE"],
        "WORD": given["B_WORD"],
        "segment_tiles": given["segment_chunks"] * given["CHUNK_TILES"],
    }
    ends = given["initial_state"]
    decays = torch.empty_like(ends)
    summary = _summary(scan, values, ends, decays, adjoint=False)
    return [summary, _carry(start, ends, decays, given["segments"], adjoint=False)]


def adjoint_entries(scan: Launch, start: Tensor | None) -> list[Launch]:
    """Return the launches that find what a backward scan's segments start from, its argument adjoint.

    Args:
        scan: the launch of the scan.
        start: the gradient of the last state, (batch, dim, d_state), or None for zeros.
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
    dim, groups = given["dim"], given["groups"]
    tensors = ("delta", "delta_bias", "reset", "order", "delta_strides", "reset_strides")
    shared = (*tensors, "length", "dim", "groups", "segments", "DELTA_SOFTPLUS", "LANES", "TILE")
    arguments = {
        **values,
        **{name: given[name] for name in shared},
        "ends": ends,
        "decays": decays,
        "d_state": ends.stride(0) // dim,
        "ADJOINT": adjoint,
    }
    programs = ends.shape[0] * groups * -(-(dim // groups) // LANES)
    backwards = ("values", "gate", "delta", "reset") if scan.backwards else ()
    return Launch(segment_summary_kernel, programs, arguments, {"num_warps": 1, "num_stages": 1}, backwards)


def _carry(start: Tensor | None, ends: Tensor, decays: Tensor, segments: int, adjoint: bool) -> Launch:
    batch, values = ends.shape[0] // segments, ends.shape[1] * ends.shape[2]
    arguments = {
        "start": None if start is None else start.transpose(1, 2).contiguous(),
        "ends": ends,
        "decays": decays,
        "segments": segments,
        "values": values,
        "ADJOINT": adjoint,
        "LANES": LANES,
        "AHEAD": 16,
    }
    return Launch(segment_carry_kernel, batch * -(-values // LANES), arguments, {"num_warps": 1, "num_stages": 1})
