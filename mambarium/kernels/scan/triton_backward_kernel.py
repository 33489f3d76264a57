"""Triton kernel of the selective scan, backward: deterministic, without atomics."""

# Kernels are written in the language of Triton, whose tuples grow in loops and know no unpacking.
# mypy: ignore-errors
# ruff: noqa: RUF005

import triton
import triton.language as tl

from mambarium.kernels.scan.triton_kernels import (
    LOG2E,
    group_rows,
    load_channels,
    load_states,
    load_tile,
    locate,
    row_pointer,
    rows_within,
    sigmoid,
    start_row,
    step_size,
)


@triton.jit
def exchange(x, distance):
    """Return the value of the lane whose number differs by the bit `distance`; all lanes of one warp take part."""
    return tl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;",
        "=f,f,r",
        [x, distance],
        dtype=tl.float32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def concealed(x):
    """x, of which the compiler no longer knows that it is x: nothing computed from x before is kept for later."""
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def sum_over_lanes(parts, lane, COUNT: tl.constexpr):
    """Lane l gets the sum over all 32 lanes of parts[l % COUNT]; COUNT is a power of two up to 32.

    In every step each lane hands half of its values to its partner and takes over the partner's share of the
    other half: COUNT - 1 shuffles, where one butterfly per value would need five times COUNT.
    """
    for level in tl.static_range(5):
        if (COUNT >> level) > 1:
            upper = (lane & (COUNT >> (level + 1))) != 0
            merged = ()
            for i in tl.static_range(COUNT >> (level + 1)):
                low = parts[i]
                high = parts[i + (COUNT >> (level + 1))]
                received = exchange(tl.where(upper, low, high), COUNT >> (level + 1))
                merged += (tl.where(upper, high, low) + received,)
            parts = merged
    total = parts[0]
    for level in tl.static_range(5):
        if (1 << level) >= COUNT:
            total += exchange(total, 1 << level)
    return total


@triton.jit(do_not_specialize=["length", "segments", "segment_tiles"])
def scan_backward_kernel(
    grad_out,
    u,
    delta,
    A,
    BC,
    D,
    z,
    delta_bias,
    reset,
    order,
    checkpoints,
    adjoint,
    grad_u,
    grad_delta,
    grad_z,
    A_parts,
    BC_parts,
    D_parts,
    bias_parts,
    grad_out_strides,
    u_strides,
    delta_strides,
    z_strides,
    reset_strides,
    grad_u_strides,
    grad_delta_strides,
    grad_z_strides,
    length,
    dim,
    groups,
    d_state,
    segments,
    segment_tiles,
    DELTA_SOFTPLUS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
    PTX: tl.constexpr,
):
    """Gradients of LANES * CHANNELS channels of one segment of a batch element.

    With G_t the gradient of h_t and a_t = exp(delta_t A):
    G_t = dy_t C_t + a_{t+1} G_{t+1}; du_t = delta_t sum_n(G B) + D dy; dA = sum_t(delta_t a_t G_t h_{t-1});
    ddelta_t = u_t sum_n(G B) + sum_n(A a_t G_t h_{t-1}); dB_t = sum_d(G delta u); dC_t = sum_d(dy h).

    Tiles run from the last to the first, and within a tile the states one by one: a state's decays and values
    of the whole tile, recomputed from the checkpoint at its start, fit into registers for any d_state.
    Between tiles a_t G_t and the sums for A wait in memory.

    Sums over channels and over the batch are left to a second stage, so that no order of execution can change
    them.

    Contiguous tensors of float32: A (state, channel); checkpoints (batch, tile, state, channel); A_parts, zero
    at the start, and adjoint, the gradient of the state after the segment at the start and of the one before it
    at the end, (batch, segment, state, channel); D_parts, bias_parts (batch, segment, channel); BC (batch, group, tile,
    state, 2 TILE), a tile's rows of B, then of C, zero past the end, and BC_parts (batch, group, block, tile,
    state, 2 TILE) of their gradients. Strides and order as in the forward; BC and BC_parts follow the steps.
    """
    batch, segment, group, block, channels, masks = locate(dim, groups, segments, LANES, CHANNELS)
    blocks = tl.cdiv(dim // groups, LANES * CHANNELS)
    grad_out = group_rows(grad_out, group, grad_out_strides, order)
    u = group_rows(u, group, u_strides, order)
    delta = group_rows(delta, group, delta_strides, order)
    grad_u = group_rows(grad_u, group, grad_u_strides, order)
    grad_delta = group_rows(grad_delta, group, grad_delta_strides, order)
    own = batch * segments + segment
    lane = tl.arange(0, LANES)
    skip = load_channels(D, channels)
    bias = load_channels(delta_bias, channels)
    D_sums = load_channels(None, channels)
    bias_sums = load_channels(None, channels)

    tiles = tl.cdiv(length, TILE)
    first_tile = segment * segment_tiles
    end_tile = tl.minimum(tiles, first_tile + segment_tiles)
    for reversed_tile in range(end_tile - first_tile):
        tile = end_tile - 1 - reversed_tile
        first = tile * TILE
        first_row = start_row(order, first)
        offsets = rows_within(order, group, first, length, TILE)
        cleared = ()
        if reset is not None:
            reset_row = reset + (batch * reset_strides[0] + first_row * reset_strides[1])
            for i in tl.static_range(TILE):
                cleared += ((tl.load(reset_row + offsets[i] * reset_strides[1]) != 0) & (first + i < length),)

        # Item channel * TILE + row.
        dt = ()
        dtu = ()
        dy = ()
        y = ()
        GB = ()
        Gha = ()
        for c in tl.static_range(CHANNELS):
            u_now = load_tile(u, batch, u_strides, first_row, channels[c], offsets)
            delta_now = load_tile(delta, batch, delta_strides, first_row, channels[c], offsets)
            gout_now = load_tile(grad_out, batch, grad_out_strides, first_row, channels[c], offsets)
            if z is not None:
                z_now = load_tile(z, batch, z_strides, first_row, channels[c], offsets)
            for i in tl.static_range(TILE):
                step = step_size(delta_now[i], bias[c], first + i < length, DELTA_SOFTPLUS)
                dt += (step,)
                # A lane past the last channel adds nothing to the sums over channels: its states are zero too.
                dtu += (tl.where(masks[c], step * u_now[i], 0.0),)
                if z is not None:
                    dy += (gout_now[i] * z_now[i] * sigmoid(z_now[i]),)
                    y += (skip[c] * u_now[i],)
                else:
                    dy += (gout_now[i],)
                GB += (tl.zeros((LANES,), tl.float32),)
                Gha += (tl.zeros((LANES,), tl.float32),)

        BC_rows = BC + ((batch * groups + group) * tiles + tile) * d_state * (2 * TILE)
        BC_targets = BC_parts + (((batch * groups + group) * blocks + block) * tiles + tile) * d_state * (2 * TILE)
        for n in range(d_state):
            bc = load_states(BC_rows + n * (2 * TILE), 1, 2 * TILE, 2)
            parts = ()
            y_new = ()
            GB_new = ()
            Gha_new = ()
            for c in tl.static_range(CHANNELS):
                place = (own * d_state + n) * dim + channels[c]
                saved = checkpoints + ((batch * tiles + tile) * d_state + n) * dim + channels[c]
                a = tl.load(A + n * dim + channels[c])
                state = tl.load(saved, mask=masks[c], other=0.0)
                carried = tl.load(adjoint + place)
                A_sum = tl.load(A_parts + place)
                decay = ()
                before = ()
                after = ()
                for i in tl.static_range(TILE):
                    if reset is not None:
                        state = tl.where(cleared[i], 0.0, state)
                    before += (state,)
                    decay += (tl.exp2(dt[c * TILE + i] * (a * LOG2E)),)
                    state = decay[i] * state + dtu[c * TILE + i] * bc[i]
                    after += (state,)
                    if z is not None:
                        y_new += (y[c * TILE + i] + state * bc[TILE + i],)
                channel_GB = ()
                channel_Gha = ()
                B_new = ()
                C_new = ()
                for i in tl.static_range(TILE - 1, -1, -1):
                    G = dy[c * TILE + i] * bc[TILE + i] + carried
                    carried = decay[i] * G
                    if reset is not None:
                        carried = tl.where(cleared[i], 0.0, carried)
                    Gh = carried * before[i]
                    A_sum += Gh * dt[c * TILE + i]
                    channel_GB = (GB[c * TILE + i] + G * bc[i],) + channel_GB
                    channel_Gha = (Gha[c * TILE + i] + Gh * a,) + channel_Gha
                    if c == 0:
                        B_new = (G * dtu[c * TILE + i],) + B_new
                        C_new = (dy[c * TILE + i] * after[i],) + C_new
                    else:
                        B_new = (parts[i] + G * dtu[c * TILE + i],) + B_new
                        C_new = (parts[TILE + i] + dy[c * TILE + i] * after[i],) + C_new
                parts = B_new + C_new
                GB_new += channel_GB
                Gha_new += channel_Gha
                tl.store(adjoint + place, carried, mask=masks[c])
                tl.store(A_parts + place, A_sum, mask=masks[c])
            y = y_new
            GB = GB_new
            Gha = Gha_new
            if PTX:
                sums = sum_over_lanes(parts, lane, 2 * TILE)
                tl.store(BC_targets + n * (2 * TILE) + lane, sums, mask=lane < 2 * TILE)
            else:
                index = tl.arange(0, 2 * TILE)
                stacked = tl.zeros((2 * TILE, LANES), tl.float32)
                for i in tl.static_range(2 * TILE):
                    stacked = tl.where((index == i)[:, None], parts[i][None, :], stacked)
                tl.store(BC_targets + n * (2 * TILE) + index, tl.sum(stacked, axis=1))

        # The rows' addresses are computed anew: kept through the loop over states they would fill the registers.
        if PTX:
            first = concealed(first)
            first_row = start_row(order, first)
            offsets = rows_within(order, group, first, length, TILE)
        D_sums_new = ()
        bias_sums_new = ()
        for c in tl.static_range(CHANNELS):
            # Loaded once more, out of the cache, for the same reason.
            u_now = load_tile(u, batch, u_strides, first_row, channels[c], offsets)
            if DELTA_SOFTPLUS:
                delta_now = load_tile(delta, batch, delta_strides, first_row, channels[c], offsets)
            if z is not None:
                gout_now = load_tile(grad_out, batch, grad_out_strides, first_row, channels[c], offsets)
                z_now = load_tile(z, batch, z_strides, first_row, channels[c], offsets)
                gz_rows = row_pointer(grad_z, batch, grad_z_strides, first_row, channels[c])
            gu_rows = row_pointer(grad_u, batch, grad_u_strides, first_row, channels[c])
            gdelta_rows = row_pointer(grad_delta, batch, grad_delta_strides, first_row, channels[c])
            D_sum = D_sums[c]
            bias_sum = bias_sums[c]
            # Rows past the end go to the last row's place, which is therefore written after them.
            for i in tl.static_range(TILE - 1, -1, -1):
                valid = first + i < length
                u_i = u_now[i]
                D_sum += tl.where(valid, dy[c * TILE + i] * u_i, 0.0)
                gu = GB[c * TILE + i] * dt[c * TILE + i] + skip[c] * dy[c * TILE + i]
                gu_row = gu_rows + offsets[i] * grad_u_strides[1]
                tl.store(gu_row, gu.to(grad_u.dtype.element_ty), mask=masks[c])
                gdelta = GB[c * TILE + i] * u_i + Gha[c * TILE + i]
                if DELTA_SOFTPLUS:
                    gdelta *= sigmoid(delta_now[i] + bias[c])
                bias_sum += tl.where(valid, gdelta, 0.0)
                gdelta_row = gdelta_rows + offsets[i] * grad_delta_strides[1]
                tl.store(gdelta_row, gdelta.to(grad_delta.dtype.element_ty), mask=masks[c])
                if z is not None:
                    gate = z_now[i]
                    s = sigmoid(gate)
                    gz = gout_now[i] * y[c * TILE + i] * s * (1.0 + gate * (1.0 - s))
                    gz_row = gz_rows + offsets[i] * grad_z_strides[1]
                    tl.store(gz_row, gz.to(grad_z.dtype.element_ty), mask=masks[c])
            D_sums_new += (D_sum,)
            bias_sums_new += (bias_sum,)
        D_sums = D_sums_new
        bias_sums = bias_sums_new

    for c in tl.static_range(CHANNELS):
        if D is not None:
            tl.store(D_parts + own * dim + channels[c], D_sums[c], mask=masks[c])
        if delta_bias is not None:
            tl.store(bias_parts + own * dim + channels[c], bias_sums[c], mask=masks[c])
