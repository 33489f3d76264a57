"""Triton kernels that let segments of time be scanned side by side.

A segment turns the state h that enters it into decay * h + end, whatever h is. The first kernel finds decay and
end of every segment, the second follows them from segment to segment; then every segment can be scanned, since
the state that enters it is known. The adjoint is such a recurrence too, from the last segment to the first.
"""

# Kernels are written in the language of Triton, whose tuples grow in loops and know no unpacking.
# mypy: ignore-errors

import triton
import triton.language as tl

from mambarium.kernels.scan.triton_kernels import (
    LOG2E,
    group_rows,
    load_channels,
    load_states,
    load_tile,
    locate,
    rows_within,
    sigmoid,
    start_row,
    step_size,
)


@triton.jit(do_not_specialize=["length", "segments", "segment_tiles"])
def segment_summary_kernel(
    values,
    gate,
    delta,
    A,
    weights,
    delta_bias,
    reset,
    order,
    ends,
    decays,
    values_strides,
    gate_strides,
    delta_strides,
    A_strides,
    weights_strides,
    reset_strides,
    length,
    dim,
    groups,
    segments,
    segment_tiles,
    d_state,
    D_STATE: tl.constexpr,
    DELTA_SOFTPLUS: tl.constexpr,
    WORD: tl.constexpr,
    ADJOINT: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return the end of LANES channels of one segment that starts at zero, and the segment's decay.

    Forward: h_t = a_t h_{t-1} + delta_t u_t B_t, values being u and weights B. Adjoint: g_t = a_t (g_{t+1} +
    dy_t C_t), from the segment's last position to its first, values being the gradient of the gated output and
    weights C. The decay is exp(A sum_t delta_t), one exponential for the whole segment, or -1, which no
    exponential is, if a reset lies in it: then nothing of h, NaN included, comes through.

    Strides and order as in the forward; of A (channel, state); of weights (batch, position in a tile, group, state,
    tile), and in the forward with an order (batch, position, group, state, zero).
    ends, decays: (batch, segment, d_state, channel) float32, contiguous, of whose states D_STATE are done here.
    """
    batch, segment, group, _, channels, masks = locate(dim, groups, segments, LANES, 1)
    channel = channels[0]
    values = group_rows(values, group, values_strides, order)
    delta = group_rows(delta, group, delta_strides, order)
    a = ()
    h = ()
    for n in tl.static_range(D_STATE):
        a += (tl.load(A + channel * A_strides[0] + n * A_strides[1]) * LOG2E,)
        h += (tl.zeros((LANES,), tl.float32),)
    bias = load_channels(delta_bias, channels)[0]
    elapsed = tl.zeros((LANES,), tl.float32)
    resets = tl.zeros((LANES,), tl.int32)

    weights_start = weights + batch * weights_strides[0] + group * weights_strides[2]
    tiles = tl.cdiv(length, TILE)
    first_tile = segment * segment_tiles
    end_tile = tl.minimum(tiles, first_tile + segment_tiles)
    for step in range(end_tile - first_tile):
        tile = end_tile - 1 - step if ADJOINT else first_tile + step
        first = tile * TILE
        first_row = start_row(order, first)
        offsets = rows_within(order, group, first, length, TILE)
        weights_offsets = rows_within(None, group, first, length, TILE) if ADJOINT else offsets
        values_now = load_tile(values, batch, values_strides, first_row, channel, offsets)
        delta_now = load_tile(delta, batch, delta_strides, first_row, channel, offsets)
        if gate is not None:
            gate_now = load_tile(gate, batch, gate_strides, first_row, channel, offsets)
        weights_tile = weights_start + tile.to(tl.int64) * weights_strides[4]
        for i in tl.static_range(TILE - 1 if ADJOINT else 0, -1 if ADJOINT else TILE, -1 if ADJOINT else 1):
            valid = first + i < length
            dt = step_size(delta_now[i], bias, valid, DELTA_SOFTPLUS)
            elapsed += dt
            w = load_states(weights_tile + weights_offsets[i] * weights_strides[1], weights_strides[3], D_STATE, WORD)
            if reset is not None:
                flag = reset + batch * reset_strides[0] + (first_row + offsets[i]) * reset_strides[1]
                cleared = (tl.load(flag) != 0) & valid
                resets += cleared.to(tl.int32)
            if not ADJOINT:
                x = dt * values_now[i]
            elif gate is not None:
                x = tl.where(valid, values_now[i] * gate_now[i] * sigmoid(gate_now[i]), 0.0)
            else:
                x = tl.where(valid, values_now[i], 0.0)
            h_new = ()
            for n in tl.static_range(D_STATE):
                decay = tl.exp2(dt * a[n])
                if ADJOINT:
                    state = decay * (h[n] + x * w[n])
                    if reset is not None:
                        state = tl.where(cleared, 0.0, state)
                else:
                    previous = h[n]
                    if reset is not None:
                        previous = tl.where(cleared, 0.0, previous)
                    state = decay * previous + x * w[n]
                h_new += (state,)
            h = h_new

    place = (batch * segments + segment) * d_state * dim + channel
    for n in tl.static_range(D_STATE):
        decay = tl.where(resets > 0, -1.0, tl.exp2(elapsed * a[n]))
        tl.store(decays + place + n * dim, decay, mask=masks[0])
        tl.store(ends + place + n * dim, h[n], mask=masks[0])


@triton.jit(do_not_specialize=["segments"])
def segment_carry_kernel(
    start,
    ends,
    decays,
    segments,
    values,
    ADJOINT: tl.constexpr,
    LANES: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Replace every segment's end by the state that enters the segment, for LANES states of a batch element.

    AHEAD segments are loaded at once: one by one, the memory's latency would be paid for every segment.

    start: (batch, values) float32 or None for zeros; ends, decays: (batch, segment, values), contiguous.
    """
    blocks = tl.cdiv(values, LANES)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    lane = (tl.program_id(0) % blocks) * LANES + tl.arange(0, LANES)
    mask = lane < values
    if start is not None:
        carried = tl.load(start + batch * values + lane, mask=mask, other=0.0)
    else:
        carried = tl.zeros((LANES,), tl.float32)
    for block in range(tl.cdiv(segments, AHEAD)):
        places = ()
        inside = ()
        end = ()
        decay = ()
        for k in tl.static_range(AHEAD):
            order = block * AHEAD + k
            segment = segments - 1 - order if ADJOINT else order
            places += ((batch * segments + segment) * values + lane,)
            inside += (mask & (order < segments),)
            end += (tl.load(ends + places[k], mask=inside[k], other=0.0),)
            decay += (tl.load(decays + places[k], mask=inside[k], other=0.0),)
        for k in tl.static_range(AHEAD):
            tl.store(ends + places[k], carried, mask=inside[k])
            cleared = (decay[k] < 0.0) | (carried == 0.0)  # zero stays zero, however large the decay
            carried = tl.where(cleared, 0.0, decay[k] * carried) + end[k]
