"""Vectors of 16 float32, called rows, as a numba type.

A plain inner loop in numba is not reliably vectorised; these intrinsics emit the vector instructions
themselves. LLVM splits a row into the machine's registers. Addresses are integers, as `Tensor.data_ptr` gives
them, so every function has one signature whatever the strides of its tensors.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils  # numba.extending has nothing that declares a function of LLVM once per module
from numba.extending import models, register_model

from mambarium.kernels.layout import LANES

# Typed as the calls see it: what is decorated are generators of code.
intrinsic: Any = extending.intrinsic

FLOAT_BYTES = 4
ROW_BYTES = LANES * FLOAT_BYTES

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_BIT = ir.IntType(1)
_LOG2_E = 1.4426950408889634


class Row(types.Type):
    """The numba type of a vector with 16 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Row")


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, row: Row) -> None:
        super().__init__(manager, row, ir.VectorType(_FLOAT, LANES))


ROW = Row()
# The lanes of a sum that is yet to be added up: a register's.
PARTIAL_LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
PARTIAL_BYTES = PARTIAL_LANES * FLOAT_BYTES


def _constant(like: ir.Value, value: float) -> ir.Constant:
    rounded = float(np.float32(value))
    return ir.Constant(like.type, [ir.Constant(_FLOAT, rounded)] * like.type.count)


def _shuffle(builder: Any, x: ir.Value, y: ir.Value | None, lanes: list[int]) -> ir.Value:
    mask = ir.Constant(ir.VectorType(_INT, len(lanes)), lanes)
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined) if y is None else y, mask)


def _call(builder: Any, name: str, *args: ir.Value) -> ir.Value:
    kind = args[0].type
    signature = ir.FunctionType(kind, [kind] * len(args))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{kind.count}f32")
    return builder.call(function, args)


def _at(builder: Any, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def _first_lanes(builder: Any, count: ir.Value) -> ir.Value:
    """Return a mask of the first `count` of 16 lanes."""
    kind = ir.VectorType(_INT, LANES)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(count, _INT), ir.Constant(_INT, 0))
    limit = _shuffle(builder, single, None, [0] * LANES)
    return builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), limit)


def _exp2(builder: Any, x: ir.Value) -> ir.Value:
    """2 ** x, below -127 0 and from 128 on infinite; the comparisons let NaN through."""
    for comparison, bound in (("<", -127.0), (">", 128.0)):
        limit = _constant(x, bound)
        x = builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
    return _bounded_exp2(builder, x)


def _bounded_exp2(builder: Any, x: ir.Value) -> ir.Value:
    """2 ** x for |x| <= 127 and NaN: split at the nearest integer, polynomial of degree 5 for the rest.

    The relative error is 1.3e-7 at most, and the least where the result is near 1: what it does to the sum of a
    geometric series of the result, 1 / (1 - 2 ** x), is 4e-7 at most for every x below 0.
    """
    whole = _call(builder, "rint", x)
    rest = builder.fsub(x, whole)
    integers = ir.VectorType(_INT, x.type.count)
    exponent = builder.fptosi(whole, integers)
    value = _constant(x, 1.32032e-3)
    for coefficient in (9.66804e-3, 5.550909e-2, 2.402232e-1, 6.931469e-1, 1.0):
        value = _call(builder, "fma", value, rest, _constant(x, coefficient))
    shift = ir.Constant(integers, [ir.Constant(_INT, 23)] * x.type.count)
    bits = builder.add(builder.bitcast(value, integers), builder.shl(exponent, shift))
    return builder.bitcast(bits, x.type)


def _exp_of_minus_abs(builder: Any, x: ir.Value) -> ir.Value:
    exponent = builder.fmul(_call(builder, "fabs", x), _constant(x, -_LOG2_E))
    limit = _constant(x, -127.0)
    return _bounded_exp2(builder, builder.select(builder.fcmp_ordered("<", exponent, limit), limit, exponent))


def _sigmoid(builder: Any, x: ir.Value, small: ir.Value) -> ir.Value:
    """1 / (1 + exp(-x)), given small = exp(-|x|)."""
    one = _constant(x, 1.0)
    large_side = builder.fdiv(one, builder.fadd(one, small))
    return builder.select(builder.fcmp_ordered(">=", x, _constant(x, 0.0)), large_side, builder.fmul(small, large_side))


def _log1p(builder: Any, x: ir.Value) -> ir.Value:
    """log(1 + x) for x in [0, 1] as x times a minimax polynomial: relative error 2e-7, without a division."""
    value = _constant(x, 0.0052326907)
    for coefficient in (
        -0.0295052289,
        0.0782259443,
        -0.13663246,
        0.191060074,
        -0.248429826,
        0.333190969,
        -0.499994931,
        0.99999997,
    ):
        value = _call(builder, "fma", value, x, _constant(x, coefficient))
    return builder.fmul(value, x)


@intrinsic
def keep_small(typing: Any) -> Any:
    """Have the function that calls this compiled to little code, whose loops aren't unrolled, and not inlined.

    Numba compiles all that a kernel calls several times over: for what is called in many places and isn't the innermost
    loop this halves the time it takes.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for attribute in ("noinline", "optsize"):
            builder.function.attributes.add(attribute)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def zero_row(typing: Any) -> Any:
    """16 zeros."""
    return ROW(), lambda context, builder, signature, args: ir.Constant(context.get_value_type(ROW), None)


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """Load a row; the address need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], context.get_value_type(ROW)), align=FLOAT_BYTES)

    return ROW(types.int64), generate


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Store all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], args[1].type), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, ROW), generate


@intrinsic
def load_some(typing: Any, address: Any, count: Any) -> Any:
    """Load the first `count` of 16 lanes, the others are zero and their memory is not touched."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(ROW)
        mask = ir.VectorType(_BIT, LANES)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind, [kind.as_pointer(), _INT, mask, kind]),
            "llvm.masked.load.v16f32.p0",
        )
        some = _first_lanes(builder, args[1])
        align = ir.Constant(_INT, FLOAT_BYTES)
        return builder.call(function, [_at(builder, args[0], kind), align, some, ir.Constant(kind, None)])

    return ROW(types.int64, types.int64), generate


@intrinsic
def store_some(typing: Any, address: Any, value: Any, count: Any) -> Any:
    """Store the first `count` of 16 lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[1].type
        mask = ir.VectorType(_BIT, LANES)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), _INT, mask]),
            "llvm.masked.store.v16f32.p0",
        )
        some = _first_lanes(builder, args[2])
        align = ir.Constant(_INT, FLOAT_BYTES)
        builder.call(function, [args[1], _at(builder, args[0], kind), align, some])
        return context.get_dummy_value()

    return types.void(types.int64, ROW, types.int64), generate


@intrinsic
def load_byte(typing: Any, address: Any) -> Any:
    """Load one byte as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(_at(builder, args[0], ir.IntType(8)))
        return builder.zext(byte, ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def load_int(typing: Any, address: Any) -> Any:
    """Load one int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(builder.load(_at(builder, args[0], _INT)), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def copy_float(typing: Any, source: Any, target: Any, accumulate: Any) -> Any:
    """Copy one float32, or adds it to what is there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (_at(builder, address, _FLOAT) for address in args[:2])
        value = builder.load(source)
        value = builder.select(args[2], builder.fadd(builder.load(target), value), value)
        builder.store(value, target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.boolean), generate


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not be valid."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _at(builder, args[0], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = ir.Constant(_INT, 0), ir.Constant(_INT, 3), ir.Constant(_INT, 1)
        builder.call(function, [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def load_repeated(typing: Any, address: Any) -> Any:
    """Load one float32 and repeats it in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(ROW)
        value = builder.load(_at(builder, args[0], _FLOAT))
        single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
        return _shuffle(builder, single, None, [0] * LANES)

    return ROW(types.int64), generate


@intrinsic
def store_partial_dot(typing: Any, address: Any, x: Any, y: Any) -> Any:
    """Store PARTIAL_LANES numbers whose sum is the dot product of x and y."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, x, y = args
        total: Any = None
        for first in range(0, LANES, PARTIAL_LANES):
            lanes = list(range(first, first + PARTIAL_LANES))
            left, right = (_shuffle(builder, value, None, lanes) for value in (x, y))
            total = builder.fmul(left, right) if total is None else _call(builder, "fma", left, right, total)
        builder.store(total, _at(builder, address, total.type), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, ROW, ROW), generate


@intrinsic
def store_sums(typing: Any, source: Any, target: Any) -> Any:
    """Add up the lanes of each of PARTIAL_LANES partial sums, and stores the totals."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = args
        kind = ir.VectorType(_FLOAT, PARTIAL_LANES)
        values = [
            builder.load(
                _at(builder, builder.add(source, ir.Constant(source.type, i * PARTIAL_BYTES)), kind), align=FLOAT_BYTES
            )
            for i in range(PARTIAL_LANES)
        ]
        # Two vectors become one that holds half as many summands of twice as many totals: first within each 4 lanes,
        # which processors do at once, then between them.
        quads = range(0, PARTIAL_LANES, 4)
        other = PARTIAL_LANES
        steps = [
            [lane for q in quads for lane in (q, other + q, q + 1, other + q + 1)],
            [lane for q in quads for lane in (q, q + 1, other + q, other + q + 1)],
        ]
        offsets = [2, 2]
        while 2 ** len(steps) < PARTIAL_LANES:
            steps.append([q + lane for q in range(0, 2 * PARTIAL_LANES, 8) for lane in range(4)])
            offsets.append(4)
        for lanes, offset in zip(steps, offsets, strict=True):
            second = [lane + offset for lane in lanes]
            values = [
                builder.fadd(_shuffle(builder, x, y, lanes), _shuffle(builder, x, y, second))
                for x, y in zip(values[::2], values[1::2], strict=True)
            ]
        builder.store(values[0], _at(builder, target, kind), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def transpose_rows(typing: Any, source: Any, source_bytes: Any, target: Any, target_bytes: Any) -> Any:
    """Copy 16 rows, so many bytes apart, as the 16 columns of rows that are so many bytes apart in the target."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, source_bytes, target, target_bytes = args

        def place(address: ir.Value, row_bytes: ir.Value, row: int, column: int, lanes: int) -> ir.Value:
            offset = builder.mul(row_bytes, ir.Constant(row_bytes.type, row))
            offset = builder.add(offset, ir.Constant(offset.type, FLOAT_BYTES * column))
            return _at(builder, builder.add(address, offset), ir.VectorType(_FLOAT, lanes))

        def gathered(first: int, column: int) -> ir.Value:
            """Four columns of every fourth row from the first on: processors load quads into any part of a vector."""
            rows = range(first, first + PARTIAL_LANES, 4)
            parts = [builder.load(place(source, source_bytes, row, column, 4), align=FLOAT_BYTES) for row in rows]
            while len(parts) > 1:
                lanes = list(range(2 * parts[0].type.count))
                parts = [_shuffle(builder, x, y, lanes) for x, y in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        for first in range(0, LANES, PARTIAL_LANES):
            for column in range(0, LANES, 4):
                quads = [gathered(first + row, column) for row in range(4)]
                for lane, value in enumerate(_transposed_quads(builder, quads)):
                    builder.store(
                        value, place(target, target_bytes, column + lane, first, PARTIAL_LANES), align=FLOAT_BYTES
                    )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


def _transposed_quads(builder: Any, rows: list[ir.Value]) -> list[ir.Value]:
    """Return four columns of four vectors, within each four lanes for itself, which processors do fastest."""
    count = rows[0].type.count
    quads = range(0, count, 4)
    low = [lane for q in quads for lane in (q, count + q, q + 1, count + q + 1)]
    high = [lane for q in quads for lane in (q + 2, count + q + 2, q + 3, count + q + 3)]
    first = [lane for q in quads for lane in (q, q + 1, count + q, count + q + 1)]
    second = [lane for q in quads for lane in (q + 2, q + 3, count + q + 2, count + q + 3)]
    return [
        _shuffle(builder, _shuffle(builder, rows[0], rows[1], pair), _shuffle(builder, rows[2], rows[3], pair), half)
        for pair in (low, high)
        for half in (first, second)
    ]


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """X * y + z."""
    return x(x, x, x), lambda context, builder, signature, args: _call(builder, "fma", *args)


@intrinsic
def mul(typing: Any, x: Any, y: Any) -> Any:
    """X * y."""
    return x(x, x), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def add(typing: Any, x: Any, y: Any) -> Any:
    """X + y."""
    return x(x, x), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2 ** x."""
    return x(x), lambda context, builder, signature, args: _exp2(builder, args[0])


@intrinsic
def bounded_exp2(typing: Any, x: Any) -> Any:
    """2 ** x for |x| <= 127 and NaN."""
    return x(x), lambda context, builder, signature, args: _bounded_exp2(builder, args[0])


@intrinsic
def times_log2_e(typing: Any, x: Any) -> Any:
    """X * log2(e): exp(x) is 2 ** of it."""
    return x(x), lambda context, builder, signature, args: builder.fmul(args[0], _constant(args[0], _LOG2_E))


@intrinsic
def largest(typing: Any, x: Any, y: Any) -> Any:
    """Return the larger of x and |y|, and x where y is NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y = args[0], _call(builder, "fabs", args[1])
        return builder.select(builder.fcmp_ordered(">", y, x), y, x)

    return x(x, x), generate


@intrinsic
def all_below(typing: Any, x: Any, limit: Any) -> Any:
    """Return whether all lanes are less than an integer; NaN is not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, limit = args
        single = builder.insert_element(
            ir.Constant(x.type, ir.Undefined), builder.sitofp(limit, _FLOAT), ir.Constant(_INT, 0)
        )
        below = builder.fcmp_ordered("<", x, _shuffle(builder, single, None, [0] * LANES))
        bits = builder.bitcast(below, ir.IntType(LANES))
        return builder.icmp_signed("==", bits, ir.Constant(bits.type, -1))

    return types.boolean(ROW, types.int64), generate


@intrinsic
def exp_of_minus_abs(typing: Any, x: Any) -> Any:
    """exp(-|x|), which `softplus` and `softplus_slope` start from."""
    return x(x), lambda context, builder, signature, args: _exp_of_minus_abs(builder, args[0])


@intrinsic
def softplus(typing: Any, x: Any, small: Any) -> Any:
    """log(1 + exp(x)), given small = exp(-|x|); accurate relative to the result for very negative x too."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, small = args
        zero = _constant(x, 0.0)
        positive = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)
        return builder.fadd(positive, _log1p(builder, small))

    return x(x, x), generate


@intrinsic
def softplus_slope(typing: Any, x: Any, small: Any) -> Any:
    """Return the derivative of softplus, 1 / (1 + exp(-x)), given small = exp(-|x|)."""
    return x(x, x), lambda context, builder, signature, args: _sigmoid(builder, *args)


@intrinsic
def sigmoid(typing: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return x(x), lambda context, builder, signature, args: _sigmoid(
        builder, args[0], _exp_of_minus_abs(builder, args[0])
    )


@intrinsic
def silu_slope(typing: Any, x: Any, gate: Any) -> Any:
    """Return derivative of x * sigmoid(x), given gate = sigmoid(x): gate * (1 + x * (1 - gate))."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, gate = args
        one = _constant(x, 1.0)
        return builder.fmul(gate, _call(builder, "fma", x, builder.fsub(one, gate), one))

    return x(x, x), generate


@njit
def softplus_rows(rows: int, count: int, slopes: int, scratch: int) -> None:
    """Replace rows by their softplus, and writes its slopes unless `slopes` is 0; scratch memory for as many rows.

    Two short loops, because processors don't look far enough ahead to overlap the rows of a long one.
    """
    for t in range(count):
        row = t * ROW_BYTES
        store(scratch + row, exp_of_minus_abs(load(rows + row)))
    for t in range(count):
        row = t * ROW_BYTES
        x, small = load(rows + row), load(scratch + row)
        if slopes != 0:
            store(slopes + row, softplus_slope(x, small))
        store(rows + row, softplus(x, small))


@njit
def copy_floats(source: int, target: int, count: int, accumulate: bool) -> None:
    """Copy `count` float32, or adds them to what is there."""
    whole = count - count % LANES
    for n in range(0, whole, LANES):
        value = load(source + FLOAT_BYTES * n)
        if accumulate:
            value = add(value, load(target + FLOAT_BYTES * n))
        store(target + FLOAT_BYTES * n, value)
    for n in range(whole, count):
        copy_float(source + FLOAT_BYTES * n, target + FLOAT_BYTES * n, accumulate)


@njit
def load_channels(address: int, count: int) -> Any:
    """Load the first `count` of 16 lanes, the others are zero."""
    if count == LANES:
        return load(address)
    return load_some(address, count)


@njit
def store_channels(address: int, value: Any, count: int) -> None:
    """Store the first `count` of 16 lanes."""
    if count == LANES:
        store(address, value)
    else:
        store_some(address, value, count)
