"""Views of arrays that nobody counts: counting who holds an array is an atomic operation, twice a view.

In a step of a tiny network that was half of the time. Whoever calls a compiled step holds its arrays.
"""

from typing import Any

from mlp_xp.fast.compiled.compiler import arrays, intrinsic, types
from mlp_xp.fast.compiled.intrinsics import Builder, Context, Signature, Type, Typing, Values


def _made(context: Context, builder: Builder, kind: Any, of: Any, **parts: Any) -> Any:
    out = context.make_array(kind)(context, builder)
    arrays.populate_array(out, itemsize=of.itemsize, meminfo=None, **parts)
    return out._getvalue()


@intrinsic
def held(_typing: Typing, array: Type) -> Any:
    """An array itself."""

    def build(context: Context, builder: Builder, _signature: Signature, given: Values) -> Any:
        of = context.make_array(array)(context, builder, given[0])
        return _made(context, builder, array, of, data=of.data, shape=of.shape, strides=of.strides)

    return array(array), build


@intrinsic
def block(_typing: Typing, array: Type, start: Type, n: Type, m: Type) -> Any:
    """Of an array without gaps the (n, m) rows from a place on."""

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        kinds, (whole, at, *shape) = signature.args, given
        at, *shape = (
            context.cast(builder, value, kind, types.intp)
            for value, kind in zip((at, *shape), kinds[1:], strict=True)
        )
        of = context.make_array(array)(context, builder, whole)
        for axis in range(1, array.ndim):
            shape.append(builder.extract_value(of.shape, axis))
            at = builder.mul(at, shape[-1])
        strides: list[Any] = []
        step = of.itemsize
        for size in reversed(shape):
            strides.insert(0, step)
            step = builder.mul(step, size)
        data = builder.gep(of.data, [at])
        return _made(context, builder, signature.return_type, of, data=data, shape=shape, strides=strides)

    return types.Array(array.dtype, array.ndim + 1, "C")(array, start, n, m), build
