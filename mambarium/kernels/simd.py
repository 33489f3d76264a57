"""Vectors of float32 as a numba type: 16 lanes, or several groups of 16, as LLVM vectors.

A plain inner loop in numba is not reliably vectorised; these intrinsics emit the vector instructions
themselves. A vector of 16 * parts lanes stands for `parts` independent rows of 16 (several states of 16
channels); LLVM splits it into the machine's registers. Addresses are integers, as `Tensor.data_ptr` gives
them, so every function has one signature whatever the strides of its tensors. A vector passed as `like`
gives only its type.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
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


class Vector(types.Type):
    """The numba type of a vector with `parts` groups of 16 lanes."""

    def __init__(self, parts: int) -> None:
        self.lanes = parts * LANES
        super().__init__(name=f"Vector{self.lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.lanes))


ROW = Vector(1)
PAIR = Vector(2)
# How many states of 16 channels a loop over time holds in registers: two need the 32 registers of AVX-512, with
# 16 smaller ones they would be spilled.
STATES_AT_ONCE = 2 if llvm.get_host_cpu_features().get("avx512f") else 1


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
    """A mask of the first `count` of 16 lanes."""
    kind = ir.VectorType(_INT, LANES)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(count, _INT), ir.Constant(_INT, 0))
    limit = _shuffle(builder, single, None, [0] * LANES)
    return builder.icmp_signed("<", ir.Constant(kind, list(range(LANES))), limit)


def _exp2(builder: Any, x: ir.Value) -> ir.Value:
    """2 ** x: split at the nearest integer, polynomial of degree 6 for the rest, relative error 1e-7.

    Below -127 it is 0 and from 128 on infinite; the comparisons let NaN through.
    """
    for comparison, bound in (("<", -127.0), (">", 128.0)):
        limit = _constant(x, bound)
        x = builder.select(builder.fcmp_ordered(comparison, x, limit), limit, x)
    whole = _call(builder, "rint", x)
    rest = builder.fsub(x, whole)
    integers = ir.VectorType(_INT, x.type.count)
    exponent = builder.fptosi(whole, integers)
    value = _constant(x, 1.535336188e-4)
    for coefficient in (
        1.339887440e-3,
        9.618437357e-3,
        5.550332548e-2,
        2.402264791e-1,
        6.931472028e-1,
        1.0,
    ):
        value = _call(builder, "fma", value, rest, _constant(x, coefficient))
    shift = ir.Constant(integers, [ir.Constant(_INT, 23)] * x.type.count)
    bits = builder.add(builder.bitcast(value, integers), builder.shl(exponent, shift))
    return builder.bitcast(bits, x.type)


def _exp_of_minus_abs(builder: Any, x: ir.Value) -> ir.Value:
    return _exp2(builder, builder.fmul(_call(builder, "fabs", x), _constant(x, -_LOG2_E)))


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
def zero_row(typing: Any) -> Any:
    """16 zeros."""
    return ROW(), lambda context, builder, signature, args: ir.Constant(context.get_value_type(ROW), None)


@intrinsic
def zero_pair(typing: Any) -> Any:
    """2 x 16 zeros."""
    return PAIR(), lambda context, builder, signature, args: ir.Constant(context.get_value_type(PAIR), None)


@intrinsic
def zero_states(typing: Any) -> Any:
    """STATES_AT_ONCE x 16 zeros."""
    kind = Vector(STATES_AT_ONCE)
    return kind(), lambda context, builder, signature, args: ir.Constant(context.get_value_type(kind), None)


@intrinsic
def size_in_bytes(typing: Any, like: Any) -> Any:
    """Bytes of a vector."""
    return types.int64(like), lambda context, builder, signature, args: ir.Constant(
        ir.IntType(64), FLOAT_BYTES * args[0].type.count
    )


@intrinsic
def load(typing: Any, address: Any, like: Any) -> Any:
    """Loads as many float32 as `like` has lanes; the address need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], args[1].type), align=FLOAT_BYTES)

    return like(types.int64, like), generate


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Stores all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], args[1].type), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


@intrinsic
def load_some(typing: Any, address: Any, count: Any) -> Any:
    """Loads the first `count` of 16 lanes, the others are zero and their memory is not touched."""

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
    """Stores the first `count` of 16 lanes."""

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
    """Loads one byte as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(_at(builder, args[0], ir.IntType(8)))
        return builder.zext(byte, ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def load_int(typing: Any, address: Any) -> Any:
    """Loads one int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(builder.load(_at(builder, args[0], _INT)), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def copy_float(typing: Any, source: Any, target: Any, accumulate: Any) -> Any:
    """Copies one float32, or adds it to what is there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (_at(builder, address, _FLOAT) for address in args[:2])
        value = builder.load(source)
        value = builder.select(args[2], builder.fadd(builder.load(target), value), value)
        builder.store(value, target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.boolean), generate


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Asks for the cache line at an address, which need not be valid."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _at(builder, args[0], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = ir.Constant(_INT, 0), ir.Constant(_INT, 3), ir.Constant(_INT, 1)
        builder.call(function, [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def load_spread(typing: Any, address: Any, like: Any) -> Any:
    """Loads one float32 per row of `like` and repeats each over its row."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = args[1].type.count // LANES
        values = builder.load(_at(builder, args[0], ir.VectorType(_FLOAT, parts)), align=FLOAT_BYTES)
        return _shuffle(builder, values, None, [lane // LANES for lane in range(parts * LANES)])

    return like(types.int64, like), generate


@intrinsic
def repeat(typing: Any, row: Any, like: Any) -> Any:
    """Repeats a row for every row of `like`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _shuffle(builder, args[0], None, list(range(LANES)) * (args[1].type.count // LANES))

    return like(ROW, like), generate


@intrinsic
def dot_rows(typing: Any, x: Any, y: Any, start: Any) -> Any:
    """start + sum over rows of x * y, for each of the 16 lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, total = args
        for first in range(0, x.type.count, LANES):
            lanes = list(range(first, first + LANES))
            total = _call(builder, "fma", _shuffle(builder, x, None, lanes), _shuffle(builder, y, None, lanes), total)
        return total

    return ROW(x, y, ROW), generate


@intrinsic
def store_row_sums(typing: Any, address: Any, value: Any, accumulate: Any) -> Any:
    """Stores the sum of each row's lanes, one float32 per row, or adds it to what is there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, value, accumulate = args
        per_row = LANES
        while per_row > 1:
            half = per_row // 2
            first = [lane for lane in range(value.type.count) if lane % per_row < half]
            second = [lane + half for lane in first]
            value = builder.fadd(_shuffle(builder, value, None, first), _shuffle(builder, value, None, second))
            per_row = half
        pointer = _at(builder, address, value.type)
        before = builder.load(pointer, align=FLOAT_BYTES)
        value = builder.select(accumulate, builder.fadd(before, value), value)
        builder.store(value, pointer, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, value, types.boolean), generate


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z."""
    return x(x, x, x), lambda context, builder, signature, args: _call(builder, "fma", *args)


@intrinsic
def mul(typing: Any, x: Any, y: Any) -> Any:
    """x * y."""
    return x(x, x), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def add(typing: Any, x: Any, y: Any) -> Any:
    """x + y."""
    return x(x, x), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2 ** x."""
    return x(x), lambda context, builder, signature, args: _exp2(builder, args[0])


@intrinsic
def softplus(typing: Any, x: Any) -> Any:
    """log(1 + exp(x)), accurate relative to the result for very negative x too."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        zero = _constant(x, 0.0)
        positive = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)
        return builder.fadd(positive, _log1p(builder, _exp_of_minus_abs(builder, x)))

    return x(x), generate


@intrinsic
def sigmoid(typing: Any, x: Any) -> Any:
    """1 / (1 + exp(-x))."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        small = _exp_of_minus_abs(builder, x)
        one = _constant(x, 1.0)
        large_side = builder.fdiv(one, builder.fadd(one, small))
        return builder.select(
            builder.fcmp_ordered(">=", x, _constant(x, 0.0)), large_side, builder.fmul(small, large_side)
        )

    return x(x), generate


@intrinsic
def silu_slope(typing: Any, x: Any, gate: Any) -> Any:
    """Derivative of x * sigmoid(x), given gate = sigmoid(x): gate * (1 + x * (1 - gate))."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, gate = args
        one = _constant(x, 1.0)
        return builder.fmul(gate, _call(builder, "fma", x, builder.fsub(one, gate), one))

    return x(x, x), generate


@njit
def copy_floats(source: int, target: int, count: int, accumulate: bool) -> None:
    """Copies `count` float32, or adds them to what is there."""
    whole = count - count % LANES
    for n in range(0, whole, LANES):
        value = load(source + FLOAT_BYTES * n, zero_row())
        if accumulate:
            value = add(value, load(target + FLOAT_BYTES * n, zero_row()))
        store(target + FLOAT_BYTES * n, value)
    for n in range(whole, count):
        copy_float(source + FLOAT_BYTES * n, target + FLOAT_BYTES * n, accumulate)


@njit
def load_channels(address: int, count: int) -> Any:
    """Loads the first `count` of 16 lanes, the others are zero."""
    if count == LANES:
        return load(address, zero_row())
    return load_some(address, count)


@njit
def store_channels(address: int, value: Any, count: int) -> None:
    """Stores the first `count` of 16 lanes."""
    if count == LANES:
        store(address, value)
    else:
        store_some(address, value, count)
