"""The inputs of an ONNX file, and what becomes of them before the network: `tables.preparation` in operators.

Everything is computed in float64, as `Inputs.fill` does, so that a date or a large mean costs no digits.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlp_xp.saved.onnx_file.graph import Graph
from mlp_xp.settings.precision import is_coarse
from mlp_xp.settings.spelling import spelled
from mlp_xp.tables.encoding import Encoding
from mlp_xp.tables.files.one_value import TRUTH, Gaps, is_name_of_number
from mlp_xp.tables.preparation import CLIP, PERIODS, Category, Column, Date, Inputs, Number

DTYPES = {"number": "float32", "bool": "float32", "date": "int64", "text": "str"}
"""What a column of each kind is in an ONNX file; dates are seconds since 1970 UTC."""

NO_DATE = -(2**63)
"""The date that is a gap, as NumPy's NaT."""

SECONDS_A_DAY = 86_400


@dataclasses.dataclass
class Features:
    """Features that were computed together, float64 [N, n], and where they belong among the inputs."""

    value: str
    places: list[int]


def matrix_problem(inputs: Inputs) -> str | None:
    """Why the columns cannot come as one matrix; None if they can."""
    others = [column for column in inputs.columns if DTYPES[column.kind] != "float32"]
    if not others:
        return None
    named = ", ".join(f"{column.name!r} ({column.kind})" for column in others[:20])
    option = spelled("matrix_input")
    return (
        f"{option}: one matrix of numbers cannot hold {named}{' ...' * (len(others) > 20)}. Leave {option} "
        "out: then each column is an input of its own."
    )


def dtype_of(column: Column) -> str:
    """What a column is in an ONNX file: float64 where float32 would round what tells numbers apart."""
    if isinstance(column, Number) and column.kind == "number":
        encoding = column.encoding or Encoding((0.0, 1.0))
        steps = (*itertools.pairwise(encoding.knots), *itertools.pairwise(encoding.edges))
        spreads = ((column.centre, column.scale), *((max(-low, high), high - low) for low, high in steps))
        if any(itertools.starmap(is_coarse, spreads)):
            return "float64"
    return DTYPES[column.kind]


def features(
    graph: Graph, inputs: Inputs, *, matrix: str | None, gaps: Gaps | None = None
) -> tuple[str, str | None]:
    """Add the inputs of a file, and what a network sees of them.

    Parameters
    ----------
    matrix : str or None
        The name of one input [N, n_columns] for all columns; None: an input [N, 1] for each, under its name.
    gaps : Gaps, optional
        What stands for a gap, beside nan and "".

    Returns
    -------
    str, and str or None
        [N, n_features], float64. And where there are booleans [N, 1], float64: 0, or nan for rows that have
        other numbers there, for which there is no prediction.
    """
    pick, gaps = _inputs(graph, inputs, matrix), gaps or Gaps(words=False)
    starts = np.cumsum([0, *(column.n_features for column in inputs.columns)]).tolist()
    numbers = {at: column for at, column in enumerate(inputs.columns) if type(column) is Number}
    dates = {at: column for at, column in enumerate(inputs.columns) if type(column) is Date}
    raw = []
    if numbers:
        raw.append(_known_gaps(graph, graph.cast(pick(list(numbers)), "float64"), gaps))
    if dates:
        raw.append(_days(graph, pick(list(dates))))
    blocks = []
    if raw:
        places = [starts[at] for at in (*numbers, *dates)]
        blocks += _of_numbers(graph, graph.beside(raw), [*numbers.values(), *dates.values()], places)
    for at, column in enumerate(inputs.columns):
        if isinstance(column, Category):
            places = list(range(starts[at], starts[at + 1]))
            blocks.append(Features(_of_category(graph, pick([at]), column, gaps), places))
    truths = [
        at
        for at, column in enumerate(inputs.columns)
        if isinstance(column, Category) and column.kind == "bool"
    ]
    return _in_order(graph, blocks), _neither(graph, pick(truths)) if truths else None


def _neither(graph: Graph, values: str) -> str:
    """0, or nan where one of a row's values is neither 0 nor 1 nor a gap: an ONNX file cannot refuse it."""
    values = graph.cast(values, "float64")
    zero, one, nan = (graph.constant(number, "float64") for number in (0.0, 1.0, np.nan))
    is_one = graph.op("Equal", graph.op("Mul", values, graph.op("Sub", values, one)), zero)
    known = graph.op("Or", is_one, graph.op("IsNaN", values))
    return graph.op("ReduceSum", graph.op("Where", known, zero, nan), graph.constant([1], "int64"))


def _inputs(graph: Graph, inputs: Inputs, matrix: str | None) -> Callable[[list[int]], str]:
    """Add the inputs; what puts some of the columns, by number, side by side."""
    dtypes = [dtype_of(column) for column in inputs.columns]
    if matrix is not None:
        dtype = "float64" if "float64" in dtypes else "float32"
        whole = graph.input(matrix, dtype, len(inputs.columns))
        return lambda numbers: _some(graph, whole, numbers, len(inputs.columns))
    names = [graph.input(column.name, dtype, 1) for column, dtype in zip(inputs.columns, dtypes, strict=True)]

    def pick(numbers: list[int]) -> str:
        if len({dtypes[at] for at in numbers}) < 2:
            return graph.beside([names[at] for at in numbers])
        return graph.beside([graph.cast(names[at], "float64") for at in numbers])

    return pick


def _known_gaps(graph: Graph, values: str, gaps: Gaps) -> str:
    """Numbers, nan where they are known to stand for a gap."""
    for number in gaps.numbers:
        is_gap = graph.op("Equal", values, graph.constant(number, "float64"))
        values = graph.op("Where", is_gap, graph.constant(np.nan, "float64"), values)
    return values


def _some(graph: Graph, value: str, numbers: Sequence[int], n_columns: int) -> str:
    """Some columns of a value; itself, where they are all."""
    return value if list(numbers) == list(range(n_columns)) else graph.columns(value, numbers)


def _days(graph: Graph, seconds: str) -> str:
    """Days since 1970, as `Date` counts them; a gap is nan."""
    is_gap = graph.op("Equal", seconds, graph.constant(NO_DATE, "int64"))
    days = graph.op("Div", graph.cast(seconds, "float64"), graph.constant(SECONDS_A_DAY, "float64"))
    return graph.op("Where", is_gap, graph.constant(np.nan, "float64"), days)


def _of_numbers(
    graph: Graph, values: str, columns: Sequence[Number], starts: Sequence[int]
) -> list[Features]:
    """What `Number.fill` and `Date.fill` do, for all columns at once: values is [N, n_columns], float64."""

    def row(field: str) -> str:
        return graph.constant([[getattr(column, field) for column in columns]], "float64")

    def number(value: float) -> str:
        return graph.constant(value, "float64")

    is_gap = graph.op("IsNaN", values)
    filled = unbounded = graph.op("Where", is_gap, row("median"), values)
    encoded = {at: column.encoding for at, column in enumerate(columns) if column.encoding is not None}
    if encoded:
        no_limits = (-np.inf, np.inf)
        limits = [no_limits if column.encoding is None else column.encoding.limits for column in columns]
        least, most = (graph.constant([bound], "float64") for bound in zip(*limits, strict=True))
        filled = graph.op("Min", graph.op("Max", filled, least), most)
    z = graph.op("Div", graph.op("Sub", filled, row("centre")), row("scale"))
    if any(column.clipped for column in columns):
        share = graph.op("Div", z, number(CLIP))
        root = graph.op("Sqrt", graph.op("Add", number(1.0), graph.op("Mul", share, share)))
        is_clipped = graph.constant([[column.clipped for column in columns]], "bool")
        z = graph.op("Where", is_clipped, graph.op("Div", z, root), z)
    blocks = [Features(z, list(starts))]
    with_gaps = [at for at, column in enumerate(columns) if column.gaps]
    if with_gaps:
        places = [starts[at] + 1 for at in with_gaps]
        blocks.append(Features(graph.cast(graph.columns(is_gap, with_gaps), "float64"), places))
    first = {at: starts[at] + 1 + columns[at].gaps for at in encoded}
    ranked = {at: each for at, each in encoded.items() if each.knots}
    if ranked:
        blocks.append(Features(_ranks(graph, filled, ranked), [first[at] for at in ranked]))
    with_ramps = {at: each.edges for at, each in encoded.items() if each.edges}
    if with_ramps:
        places = [
            first[at] + bool(encoded[at].knots) + t
            for at, edges in with_ramps.items()
            for t in range(len(edges) - 1)
        ]
        blocks.append(Features(_ramps(graph, filled, with_ramps), places))
    for cycle, period in PERIODS.items():
        dates = {
            at: starts[at] + column.n_features - 2 * (len(column.cycles) - column.cycles.index(cycle))
            for at, column in enumerate(columns)
            if isinstance(column, Date) and cycle in column.cycles
        }
        if dates:
            turns = graph.op("Div", graph.columns(unbounded, list(dates)), number(period))
            part = graph.op("Sub", turns, graph.op("Floor", turns))
            angle = graph.op("Mul", part, number(2 * np.pi))
            blocks.append(Features(graph.op("Sin", angle), list(dates.values())))
            blocks.append(Features(graph.op("Cos", angle), [place + 1 for place in dates.values()]))
    return blocks


def _ramps(graph: Graph, values: str, edges: Mapping[int, Sequence[float]]) -> str:
    """All ramps of some columns of values, side by side: clip((value − b_{t−1}) / (b_t − b_{t−1}), 0, 1)."""
    column = [at for at, each in edges.items() for _ in each[1:]]
    start = [b for each in edges.values() for b in each[:-1]]
    width = [b - a for each in edges.values() for a, b in itertools.pairwise(each)]
    rise = graph.op("Sub", graph.columns(values, column), graph.constant([start], "float64"))
    share = graph.op("Div", rise, graph.constant([width], "float64"))
    zero, one = (graph.constant(bound, "float64") for bound in (0.0, 1.0))
    return graph.op("Min", graph.op("Max", share, zero), one)


def _ranks(graph: Graph, values: str, encodings: Mapping[int, Encoding]) -> str:
    """√12 (r − ½) of some columns of values: r rises between two knots as the ramp between them."""
    ramps = _ramps(graph, values, {at: each.knots for at, each in encodings.items()})
    n_each = [len(each.knots) - 1 for each in encodings.values()]
    rises = np.zeros((sum(n_each), len(encodings)))
    own = np.repeat(np.arange(len(encodings)), n_each)
    rises[np.arange(len(own)), own] = np.concatenate([np.diff(each.ranks) for each in encodings.values()])
    lowest = graph.constant([[each.ranks[0] - 0.5 for each in encodings.values()]], "float64")
    rank = graph.op("Add", graph.op("MatMul", ramps, graph.constant(rises, "float64")), lowest)
    return graph.op("Mul", rank, graph.constant(np.sqrt(12.0), "float64"))


def _of_category(graph: Graph, value: str, column: Category, gaps: Gaps) -> str:
    """What `Category.fill` does: one of the level, of "other" and of the gap is c. value is [N, 1]."""
    parts = []
    if column.levels:
        texts = graph.constant([list(column.levels)]) if column.kind == "text" else None
        value = value if texts else graph.cast(value, "float32")
        codes = texts or graph.constant([range(len(column.levels))], "float32")
        is_level = graph.op("Equal", value, codes)
        others = [other_spelling(column, level) for level in column.levels]
        if texts and others != list(column.levels):
            is_level = graph.op("Or", is_level, graph.op("Equal", value, graph.constant([others])))
        parts.append(graph.cast(is_level, "float64"))
    gap = [_gap_of_category(graph, value, column, gaps)] if column.gaps else []
    if column.other:
        other = graph.constant(1.0, "float64")
        for part in parts:
            other = graph.op("Sub", other, graph.op("ReduceSum", part, graph.constant([1], "int64")))
        for each in gap:
            other = graph.op("Sub", other, each)
        parts.append(other)
    features = graph.beside([*parts, *gap])
    is_one = column.scale == 1.0
    return features if is_one else graph.op("Mul", features, graph.constant(column.scale, "float64"))


def other_spelling(column: Category, level: str) -> str:
    """How a level may be written too: 1 as 1.0, 2.50 as 2.5, true as True; itself where that is no news."""
    if level.lower() in TRUTH:
        other = level.lower() if level != level.lower() else level.capitalize()
    elif is_name_of_number(level) and "e" not in level.lower():
        whole, _, fraction = level.partition(".")
        short = fraction.rstrip("0")
        other = f"{level}.0" if not fraction else f"{whole}.{short}" if short else whole
    else:
        return level
    names = column.names
    return other if other not in names.exact and names.find(other) == names.exact[level] else level


def _gap_of_category(graph: Graph, value: str, column: Category, gaps: Gaps) -> str:
    """1 where there is no value: nan, or a text that stands for none unless that is a level."""
    if column.kind == "bool":
        return graph.cast(graph.op("IsNaN", value), "float64")
    words = sorted(gaps.in_text - set(column.levels)) or [""]
    is_word = graph.cast(graph.op("Equal", value, graph.constant([words])), "float64")
    if "" in column.levels and words == [""]:
        return graph.op("Mul", is_word, graph.constant(0.0, "float64"))
    return graph.op("ReduceSum", is_word, graph.constant([1], "int64"))


def _in_order(graph: Graph, blocks: Sequence[Features]) -> str:
    """All features, where the network expects them."""
    places = [place for block in blocks for place in block.places]
    return _some(
        graph, graph.beside([block.value for block in blocks]), np.argsort(places).tolist(), len(places)
    )
