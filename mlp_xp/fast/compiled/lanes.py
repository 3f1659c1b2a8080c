"""Members side by side in the lanes of vector registers, where sums of products stay till they are known."""

from typing import Any

from mlp_xp.fast.compiled.compiler import ANY_ORDER, building, intrinsic, ir, types
from mlp_xp.fast.compiled.intrinsics import Builder, Context, Signature, Type, Typing, Values

LANES = 8
"""Members that one register holds: their number is a multiple of it."""

FLAGS = tuple(sorted(ANY_ORDER))


@intrinsic
def sum_products(
    _typing: Typing,
    out: Type,
    _at: Type,
    one: Type,
    _i: Type,
    _i_by: Type,
    other: Type,
    _j: Type,
    _j_by: Type,
    _n: Type,
) -> Any:
    """Row `at` of out ← Σ_k one[i + k i_by] ⊙ other[j + k j_by], for k from 0 to n − 1.

    All are (…, members) without gaps, and their rows are counted over all axes before the last.
    """

    def build(context: Context, builder: Builder, signature: Signature, given: Values) -> Any:
        given_arrays = {
            n: context.make_array(kind)(context, builder, given[n])
            for n, kind in enumerate(signature.args)
            if isinstance(kind, types.Array)
        }
        number = given_arrays[0].data.type.pointee
        vector = ir.VectorType(number, LANES)
        per_row = builder.extract_value(given_arrays[0].shape, out.ndim - 1)

        def row(n: int, place: Any, block: Any) -> Any:
            at_first = builder.add(builder.mul(place, per_row), builder.mul(block, per_row.type(LANES)))
            return builder.bitcast(builder.gep(given_arrays[n].data, [at_first]), vector.as_pointer())

        def load(n: int, place: Any, block: Any) -> Any:
            return builder.load(row(n, place, block), align=number_size)

        number_size = 4 if isinstance(number, ir.FloatType) else 8
        _, place, _, first, first_by, _, second, second_by, n_terms = given
        total = building.alloca_once(builder, vector)
        n_blocks = builder.sdiv(per_row, per_row.type(LANES))
        with building.for_range(builder, n_blocks) as blocks:
            builder.store(ir.Constant(vector, None), total)
            with building.for_range(builder, n_terms) as terms:
                k = terms.index
                x = load(2, builder.add(first, builder.mul(k, first_by)), blocks.index)
                y = load(5, builder.add(second, builder.mul(k, second_by)), blocks.index)
                product = builder.fmul(x, y, flags=FLAGS)
                builder.store(builder.fadd(builder.load(total), product, flags=FLAGS), total)
            builder.store(builder.load(total), row(0, place, blocks.index), align=number_size)
        return context.get_dummy_value()

    at = types.intp
    return types.void(out, at, one, at, at, other, at, at, at), build
