"""Triton kernel of the selective scan, forward, and what the backward shares with it.

A lane holds CHANNELS channels, LANES apart; time runs sequentially, and the states stay in registers as a
tuple of one-dimensional tensors, one element per lane. No lane ever needs another lane's state, so the
forward has no shuffles and no barriers, and B and C, which all channels of a group share, are scalar loads.

Time is cut into tiles of TILE positions, which are unrolled. The forward stores its states every CHUNK_TILES
tiles; the backward's tiles are as long as that distance, so that each starts at a checkpoint.

Any strides are served: 64-bit offsets between tiles, 32-bit offsets within one. Positions past the end of the
sequence, which the last tile may have, are given delta = 0: they keep the state and add nothing to any
gradient.

With an order of visits, a group's steps go to the positions that the order names: rows are read and written where
they are, by 64-bit offsets from the first position. All else, checkpoints and states, follows the steps.
"""

# Kernels are written in the language of Triton, whose tuples grow in loops and know no unpacking.
# mypy: ignore-errors

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    # A division would add a guard against denormal numbers, which 1 + exp(-x) never is.
    root = tl.rsqrt(1.0 + tl.exp2(x * -LOG2E))
    return root * root


@triton.jit
def softplus(x):
    """log(1 + exp(x)) as max(x, 0) + log1p(exp(-|x|)), to about 2e-7 of its value for every x.

    log1p(w) / w is a minimax polynomial on [0, 1]: log(1 + w) in float32 would lose the small deltas. The
    reference's threshold of 20 needs no branch, since exp(-20) vanishes beside 20.
    """
    w = tl.exp2(tl.abs(x) * -LOG2E)
    p = 0.0052326907 * w - 0.0295052289
    p = p * w + 0.0782259443
    p = p * w - 0.13663246
    p = p * w + 0.191060074
    p = p * w - 0.248429826
    p = p * w + 0.333190969
    p = p * w - 0.499994931
    p = p * w + 0.99999997
    return tl.maximum(x, 0.0) + w * p


@triton.jit
def step_size(delta, bias, valid, DELTA_SOFTPLUS: tl.constexpr):
    """Return the discretisation step of one row, zero where the row lies past the end."""
    x = delta + bias
    if DELTA_SOFTPLUS:
        x = softplus(x)
    return tl.where(valid, x, 0.0)


@triton.jit
def rows_within(order, group, first, length, TILE: tl.constexpr):
    """Return the offsets of a tile's rows from `start_row`, those past the end replaced by the last row's.

    Any finite values do there, since delta is zero, and loads need no mask.
    """
    offsets = ()
    for i in tl.static_range(TILE):
        if order is None:
            offsets += (tl.minimum(length - 1 - first, i),)
        else:
            step = tl.minimum(length - 1, first + i)
            offsets += (tl.load(order + group * length + step).to(tl.int64),)
    return offsets


@triton.jit
def start_row(order, first):
    """Return the position from which a tile's offsets count: the tile's first one, with an order the first of all."""
    return first.to(tl.int64) if order is None else tl.full((), 0, tl.int64)


@triton.jit
def group_rows(pointer, group, strides, order):
    """Return the tensor as the group has it: with an order it has an axis of groups beside that of channels."""
    if order is not None:
        pointer += group * strides[3]
    return pointer


@triton.jit
def load_rows(pointers, stride, offsets):
    """Return a tile's rows as float32: item channel * TILE + row."""
    rows = ()
    for c in tl.static_range(len(pointers)):
        for i in tl.static_range(len(offsets)):
            rows += (tl.load(pointers[c] + offsets[i] * stride).to(tl.float32),)
    return rows


@triton.jit
def row_pointer(pointer, batch, strides, first, channel):
    """Pointers to a channel per lane at position `first`, one of `start_row`.

    The backward builds them anew for every tile from what all lanes share: kept from tile to tile, two
    registers per tensor and channel of a lane, they would displace its sums.
    """
    return pointer + (batch * strides[0] + first * strides[1]) + channel * strides[2]


@triton.jit
def load_tile(pointer, batch, strides, first, channel, offsets):
    """Return the rows at `offsets` from position `first` as float32."""
    start = row_pointer(pointer, batch, strides, first, channel)
    rows = ()
    for i in tl.static_range(len(offsets)):
        rows += (tl.load(start + offsets[i] * strides[1]).to(tl.float32),)
    return rows


@triton.jit
def load_states(row, stride, D_STATE: tl.constexpr, WORD: tl.constexpr):
    """One position's values of B or C, shared by all lanes, as float32.

    WORD values are loaded as one 64-bit word where the memory allows it: loads and conversions of single
    16-bit values would be a third of the forward's instructions.
    """
    values = ()
    if WORD == 1:
        for n in tl.static_range(D_STATE):
            values += (tl.load(row + tl.full((), n, tl.int64) * stride).to(tl.float32),)
    else:
        words = row.to(tl.pointer_type(tl.int64))
        for n in tl.static_range(D_STATE // WORD):
            word = tl.load(words + n)
            low = word.to(tl.int32)
            high = (word >> 32).to(tl.int32)
            if WORD == 2:
                values += (low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True))
            else:
                values += unpack(low, row.dtype.element_ty)
                values += unpack(high, row.dtype.element_ty)
    return values


@triton.jit
def unpack(pair, dtype: tl.constexpr):
    """Return the two 16-bit floats of a 32-bit word as float32."""
    if dtype == tl.bfloat16:
        # A bfloat16 is the upper half of a float32.
        return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)
    else:
        low = pair.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
        high = (pair >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
        return low, high


@triton.jit
def load_channels(pointer, channels):
    """One float32 vector per channel of a lane, zero without a tensor."""
    values = ()
    for c in tl.static_range(len(channels)):
        if pointer is not None:
            values += (tl.load(pointer + channels[c]),)
        else:
            values += (tl.zeros(channels[c].shape, tl.float32),)
    return values


@triton.jit
def advance(pointers, offset):
    moved = ()
    for c in tl.static_range(len(pointers)):
        moved += (pointers[c] + offset,)
    return moved


@triton.jit
def locate(dim, groups, segments, LANES: tl.constexpr, CHANNELS: tl.constexpr):
    """Batch element, segment of time, group, block of channels, and per channel of a lane its index and mask.

    Programs never straddle groups: each group is cut into blocks of its own. Past a group's end the last
    channel is repeated, so that loads need no mask; what such lanes compute is not stored.
    """
    channels_per_group = dim // groups
    blocks = tl.cdiv(channels_per_group, LANES * CHANNELS)
    program = tl.program_id(0)
    batch = (program // (blocks * groups * segments)).to(tl.int64)
    segment = (program // (blocks * groups)) % segments
    group = ((program // blocks) % groups).to(tl.int64)
    block = program % blocks
    channels = ()
    masks = ()
    for c in tl.static_range(CHANNELS):
        inner = (block * CHANNELS + c) * LANES + tl.arange(0, LANES)
        channels += (group * channels_per_group + tl.minimum(inner, channels_per_group - 1),)
        masks += (inner < channels_per_group,)
    return batch, segment, group, block, channels, masks


@triton.jit(do_not_specialize=["length", "segments", "segment_chunks"])
def scan_forward_kernel(
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
    order,
    out,
    last_state,
    checkpoints,
    u_strides,
    delta_strides,
    A_stride,
    B_strides,
    C_strides,
    z_strides,
    initial_strides,
    reset_strides,
    out_strides,
    last_strides,
    length,
    dim,
    groups,
    segments,
    segment_chunks,
    D_STATE: tl.constexpr,
    DELTA_SOFTPLUS: tl.constexpr,
    B_WORD: tl.constexpr,
    C_WORD: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE: tl.constexpr,
    CHUNK_TILES: tl.constexpr,
):
    """Scan LANES * CHANNELS channels of one segment of a batch element.

    Strides: (batch, time, channel) of u, delta, z, out; (batch, time, group, state) of B, C; (batch, segment,
    channel, state) of initial_state, which every segment has its own of; (batch, channel) of last_state, whose
    states are adjacent, as A's are; (batch, time) of reset. checkpoints: (batch, chunk, state, channel),
    contiguous. A segment has segment_chunks chunks, the last one what remains. order: (group, step) or None; with it
    u, delta and out have a stride of groups too, see `group_rows`.
    """
    batch, segment, group, _, channels, masks = locate(dim, groups, segments, LANES, CHANNELS)
    u = group_rows(u, group, u_strides, order)
    delta = group_rows(delta, group, delta_strides, order)
    out = group_rows(out, group, out_strides, order)

    # Item state * CHANNELS + channel. exp(delta A) is exp2(delta (A log2(e))): one instruction.
    a = ()
    h = ()
    for n in tl.static_range(D_STATE):
        for c in tl.static_range(CHANNELS):
            a += (tl.load(A + channels[c] * A_stride + n) * LOG2E,)
            if initial_state is not None:
                start = initial_state + batch * initial_strides[0] + segment * initial_strides[1]
                h += (tl.load(start + channels[c] * initial_strides[2] + n * initial_strides[3]),)
            else:
                h += (tl.zeros((LANES,), tl.float32),)
    skip = load_channels(D, channels)
    bias = load_channels(delta_bias, channels)

    tiles = tl.cdiv(length, TILE)
    chunks = tl.cdiv(tiles, CHUNK_TILES)
    first_chunk = segment * segment_chunks
    first = first_chunk * CHUNK_TILES * TILE
    first_row = start_row(order, first)
    u_rows = ()
    delta_rows = ()
    z_rows = ()
    out_rows = ()
    for c in tl.static_range(CHANNELS):
        u_rows += (row_pointer(u, batch, u_strides, first_row, channels[c]),)
        delta_rows += (row_pointer(delta, batch, delta_strides, first_row, channels[c]),)
        out_rows += (row_pointer(out, batch, out_strides, first_row, channels[c]),)
        if z is not None:
            z_rows += (row_pointer(z, batch, z_strides, first_row, channels[c]),)
    B_row = B + batch * B_strides[0] + group * B_strides[2] + first_row * B_strides[1]
    C_row = C + batch * C_strides[0] + group * C_strides[2] + first_row * C_strides[1]
    if reset is not None:
        reset_row = reset + batch * reset_strides[0] + first_row * reset_strides[1]

    # The rows of a tile are loaded one tile ahead: nothing else hides the memory's latency.
    offsets_next = rows_within(order, group, first, length, TILE)
    u_next = load_rows(u_rows, u_strides[1], offsets_next)
    delta_next = load_rows(delta_rows, delta_strides[1], offsets_next)
    for chunk in range(first_chunk, tl.minimum(chunks, first_chunk + segment_chunks)):
        if checkpoints is not None:
            for c in tl.static_range(CHANNELS):
                saved = checkpoints + (batch * chunks + chunk) * D_STATE * dim + channels[c]
                for n in tl.static_range(D_STATE):
                    tl.store(saved + n * dim, h[n * CHANNELS + c], mask=masks[c])
        for tile in range(chunk * CHUNK_TILES, min(tiles, (chunk + 1) * CHUNK_TILES)):
            first = tile * TILE
            offsets = offsets_next
            u_now = u_next
            delta_now = delta_next
            offsets_next = rows_within(order, group, first + TILE, length, TILE)
            if order is None:
                u_rows = advance(u_rows, TILE * u_strides[1])
                delta_rows = advance(delta_rows, TILE * delta_strides[1])
            u_next = load_rows(u_rows, u_strides[1], offsets_next)
            delta_next = load_rows(delta_rows, delta_strides[1], offsets_next)
            if z is not None:
                z_now = load_rows(z_rows, z_strides[1], offsets)
                z_rows = advance(z_rows, TILE * z_strides[1])
            outputs = ()
            for i in tl.static_range(TILE):
                valid = first + i < length
                b = load_states(B_row + offsets[i] * B_strides[1], B_strides[3], D_STATE, B_WORD)
                c_ = load_states(C_row + offsets[i] * C_strides[1], C_strides[3], D_STATE, C_WORD)
                if reset is not None:
                    cleared = (tl.load(reset_row + offsets[i] * reset_strides[1]) != 0) & valid
                dt = ()
                dtu = ()
                y = ()
                for c in tl.static_range(CHANNELS):
                    u_i = u_now[c * TILE + i]
                    dt += (step_size(delta_now[c * TILE + i], bias[c], valid, DELTA_SOFTPLUS),)
                    dtu += (dt[c] * u_i,)
                    y += (skip[c] * u_i,)
                h_new = ()
                for n in tl.static_range(D_STATE):
                    y_new = ()
                    for c in tl.static_range(CHANNELS):
                        previous = h[n * CHANNELS + c]
                        if reset is not None:
                            previous = tl.where(cleared, 0.0, previous)
                        state = tl.exp2(dt[c] * a[n * CHANNELS + c]) * previous + dtu[c] * b[n]
                        h_new += (state,)
                        y_new += (y[c] + state * c_[n],)
                    y = y_new
                h = h_new
                for c in tl.static_range(CHANNELS):
                    if z is not None:
                        gate = z_now[c * TILE + i]
                        outputs += (y[c] * gate * sigmoid(gate),)
                    else:
                        outputs += (y[c],)
            # Stores come last, so that no load of the tile has to wait behind one that might overwrite it. Rows
            # past the end go to the last row's place, which is therefore written after them.
            for i in tl.static_range(TILE - 1, -1, -1):
                for c in tl.static_range(CHANNELS):
                    value = outputs[i * CHANNELS + c].to(out.dtype.element_ty)
                    tl.store(out_rows[c] + offsets[i] * out_strides[1], value, mask=masks[c])
            if order is None:
                out_rows = advance(out_rows, TILE * out_strides[1])
                B_row += TILE * B_strides[1]
                C_row += TILE * C_strides[1]
            if reset is not None:
                reset_row += TILE * reset_strides[1]

    for n in tl.static_range(D_STATE):
        for c in tl.static_range(CHANNELS):
            last = last_state + batch * last_strides[0] + channels[c] * last_strides[1]
            tl.store(last + n, h[n * CHANNELS + c], mask=masks[c] & (segment == segments - 1))
