"""Charts as SVG, in the colours and the width of the page around them, without any library.

What is drawn is plain text with numbers in it; every word that comes from outside goes through `escaped`.
"""

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mlp_xp.report.style import CHART, COLOURS

WIDTH, BROAD, HEIGHT = 360, 760, 230
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 38
"""Of a chart, of one as broad as the page, and of the margins in them, in units of the picture."""

FEW = 20
"""Rows below which a share of them says little: it is drawn thin."""

KINDS = ("first", "second", "third", "fourth", "fifth", "sixth")
"""Of curves: each has a colour of its own."""

MOST_POINTS = 400
"""Points of a curve that are drawn; more would not be seen."""


def escaped(text: object) -> str:
    """A text from outside as HTML that shows it and does nothing else."""
    return html.escape(str(text))


def number(value: float | None) -> str:
    """A number for people.

    Examples
    --------
    >>> [number(value) for value in (1.5e9, 12345.67, 0.00012345, None)]
    ['1.5e+09', '12,346', '0.0001234', 'undefined']
    """
    if value is None or not math.isfinite(value):
        return "undefined"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}"


def shortened(text: str, most: int) -> str:
    """At most so many characters of a text.

    Examples
    --------
    >>> shortened("a long name", 6)
    'a lon…'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def spans_magnitudes(values: Iterable[float]) -> bool:
    """Whether a curve is better seen on a logarithmic axis."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 10 * min(finite)


class Axis:
    """Values of one direction of a chart, and where they are in it.

    Parameters
    ----------
    values : iterable of float
        What must have a place; those that are not finite need none.
    start, stop : float
        Where the lowest and the highest are.
    log : bool
        Equal factors instead of equal differences.
    whole : bool
        Whether what is counted has no halves.
    """

    def __init__(
        self, values: Iterable[float], start: float, stop: float, *, log: bool = False, whole: bool = False
    ) -> None:
        finite = [float(value) for value in values if math.isfinite(value)] or [0.0, 1.0]
        self.log, self.whole, self._start, self._stop = log, whole, start, stop
        low, high = self._inner(min(finite)), self._inner(max(finite))
        if not high - low > 1e-12 * max(abs(low), abs(high)):
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self._low, self._high = low, high

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def place(self, value: float) -> float:
        """Where a value is."""
        share = (self._inner(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._stop - self._start)

    def ticks(self) -> list[float]:
        """Some round values."""
        if not self.log:
            return round_values(self._low, self._high, 1.0 if self.whole else 0.0)
        exponents = range(math.floor(self._low), math.floor(self._high) + 1)
        each = (1, 2, 5) if self._high - self._low < 2.5 else (1,)
        values = [float(f"{factor}e{exponent}") for exponent in exponents for factor in each]
        within = [value for value in values if self._low <= math.log10(value) <= self._high]
        return within[:: math.ceil(len(within) / 7)] if within else []


def round_values(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten, `least_step` apart or more.

    Examples
    --------
    >>> round_values(0.13, 1.9)
    [0.5, 1.0, 1.5]
    """
    rough = max((high - low) / 5, least_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [
        float(f"{step * n:.12g}") for n in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)
    ]


def _tick(value: float) -> str:
    text = f"{value:.6g}"
    return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def chart(
    x: Axis, y: Axis, x_title: str, y_title: str, marks: Iterable[str], about: str, width: int = WIDTH
) -> str:
    """Axes with their titles and SVG elements between them; `about` is for those who do not see it."""
    bottom, right = HEIGHT - BOTTOM, width - RIGHT
    grid = [
        *(f'<line x1="{LEFT}" x2="{right}" y1="{y.place(t):.1f}" y2="{y.place(t):.1f}"/>' for t in y.ticks()),
        *(f'<line y1="{TOP}" y2="{bottom}" x1="{x.place(t):.1f}" x2="{x.place(t):.1f}"/>' for t in x.ticks()),
    ]
    x_title, y_title = escaped(shortened(x_title, 46)), escaped(shortened(y_title, 30))
    turned = f"translate(10 {(TOP + bottom) / 2}) rotate(-90)"
    texts = [
        *(f'<text class="y" x="{LEFT - 5}" y="{y.place(t) + 3.5:.1f}">{_tick(t)}</text>' for t in y.ticks()),
        *(f'<text class="x" x="{x.place(t):.1f}" y="{bottom + 14}">{_tick(t)}</text>' for t in x.ticks()),
        f'<text class="x title" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}">{x_title}</text>',
        f'<text class="x title" transform="{turned}">{y_title}</text>',
    ]
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escaped(about)}">'
        f'<g class="grid">{"".join(grid)}</g>{"".join(marks)}<g class="words">{"".join(texts)}</g></svg>'
    )


def horizontal(values: Iterable[float], *, whole: bool = False, width: int = WIDTH) -> Axis:
    """The axis from left to right."""
    return Axis(values, LEFT, width - RIGHT, whole=whole)


def vertical(values: Iterable[float], *, log: bool = False, whole: bool = False) -> Axis:
    """The axis from bottom to top."""
    return Axis(values, HEIGHT - BOTTOM, TOP, log=log, whole=whole)


def path(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points of the chart; it has a gap where one is not finite."""
    parts, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return f'<path class="{kind}" d="{"".join(parts)}"/>'


def curves(
    named: Mapping[str, Sequence[float]],
    x_title: str,
    y_title: str,
    about: str,
    best: int = 0,
    width: int = WIDTH,
) -> str:
    """Curves over 1, 2, 3, ..., one for each of `KINDS` at most, their names below; `best` marks a place."""
    words = [f'<span class="{kind}">{escaped(name)}</span>' for kind, name in _legend(named, best)]
    return f'{_curves(named, x_title, y_title, about, best, width)}<p class="legend">{" ".join(words)}</p>'


def picture(
    named: Mapping[str, Sequence[float]], x_title: str, y_title: str, about: str, best: int = 0
) -> str:
    """The same as an SVG file of its own."""
    return _file(_curves(named, x_title, y_title, about, best, WIDTH), _legend(named, best))


def rate_picture(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float
) -> str:
    """Losses of steps at ascending learning rates, their running mean, and one rate marked: an SVG file."""
    x = Axis(rates, LEFT, WIDTH - RIGHT, log=True)
    y = vertical(losses, log=spans_magnitudes(losses))
    dots, line = (
        [(x.place(rate), y.place(value)) for rate, value in zip(rates, values, strict=True)]
        for values in (losses, smoothed)
    )
    marks = [_marked(x, suggestion, "suggestion"), _dots(dots, "second dots"), path(line, "first")]
    inner = chart(x, y, "learning rate", "loss", marks, "losses of steps at ascending learning rates")
    return _file(
        inner,
        [("second", "each step"), ("first", "running mean"), ("best", f"suggested: {suggestion:.2g}")],
    )


def _marked(x: Axis, value: float, what: str) -> str:
    """A line across the chart."""
    at = f"{x.place(value):.1f}"
    return (
        f'<line class="best" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>{what}</title></line>"
    )


def _file(inner: str, legend: Sequence[tuple[str, str]]) -> str:
    """A chart with its legend, as an SVG file of its own."""
    inner = inner.replace("<svg ", f'<svg width="{WIDTH}" height="{HEIGHT}" ', 1)
    entries = []
    for n, (kind, name) in enumerate(legend):
        x, y = 12 + n % 3 * 112, HEIGHT + 10 + n // 3 * 14
        entries.append(
            path([(x, y), (x + 16, y)], kind) + f'<text x="{x + 21}" y="{y + 4}">{escaped(name)}</text>'
        )
    height = HEIGHT + 22 + (len(legend) - 1) // 3 * 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{2 * WIDTH}" height="{2 * height}">'
        f"<style>{COLOURS}{CHART}text {{ font-family: system-ui, sans-serif; }}</style>"
        f'<rect width="100%" height="100%" fill="var(--paper)"/>{inner}'
        f'<g class="words">{"".join(entries)}</g>'
        "</svg>\n"
    )


def _curves(
    named: Mapping[str, Sequence[float]], x_title: str, y_title: str, about: str, best: int, width: int
) -> str:
    values = [value for curve in named.values() for value in curve]
    n_values = max(map(len, named.values()))
    x = horizontal([1, n_values], whole=True, width=width)
    y = vertical(values, log=spans_magnitudes(values))
    marks = []
    if best:
        marks.append(_marked(x, best, f"best: epoch {best}"))
    for kind, curve in zip(KINDS, named.values(), strict=False):
        shown = np.unique(np.linspace(0, len(curve) - 1, MOST_POINTS).round().astype(int))
        place = [
            (x.place(n + 1), y.place(curve[n]) if math.isfinite(curve[n]) else math.nan)
            for n in shown.tolist()
        ]
        marks.append(path(place, kind) if len(place) > 1 else _dots(place, f"{kind} dots large"))
    return chart(x, y, x_title, y_title, marks, about, width)


def _legend(named: Iterable[str], best: int) -> list[tuple[str, str]]:
    """How each thing in a chart of curves is drawn, and what it is called."""
    entries = list(zip(KINDS, named, strict=False))
    return [*entries, ("best", f"best: epoch {best:,}")] if best else entries


def _dots(places: Iterable[tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="{"".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)}"/>'


def points(x: np.ndarray, y: np.ndarray, x_title: str, y_title: str, about: str) -> str:
    """A cloud of points (n,), those with a place that is not finite left out, with the line y = x."""
    is_finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[is_finite], y[is_finite]
    ends = (x.min(), x.max()) if len(x) else (0.0, 1.0)
    across, up = horizontal(x), vertical([*y, *ends])
    dots = _dots(((across.place(a), up.place(b)) for a, b in zip(x, y, strict=True)), "first dots")
    ideal = path([(across.place(end), up.place(end)) for end in ends], "ideal")
    return chart(across, up, x_title, y_title, [dots, ideal], about)


def counts_in_bins(values: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """How many finite values are in each bin, and the bins' edges; one bin where float64 has none between."""
    values = values[np.isfinite(values)]
    try:
        with np.errstate(all="ignore"):
            return np.histogram(values, bins=n_bins)
    except ValueError:  # too near each other, or too far apart
        return np.array([len(values)]), np.array([values.min(), values.max()])


def histogram(values: np.ndarray, x_title: str, about: str, n_bars: int = 25) -> str:
    """How often values occur; those that are not finite are left out."""
    counts, edges = counts_in_bins(values, n_bars)
    x, y = horizontal(edges), vertical([0, counts.max()], whole=True)
    bars = []
    for count, (low, high) in zip(counts.tolist(), itertools.pairwise(edges.tolist()), strict=True):
        top, left, width = y.place(count), x.place(low), x.place(high) - x.place(low)
        words = f"{number(low)} to {number(high)}: {count:,}"
        bars.append(
            f'<rect class="first" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(width - 1, 0.5):.1f}" '
            f'height="{y.place(0) - top:.1f}"><title>{words}</title></rect>'
        )
    zero = [path([(x.place(0), y.place(0)), (x.place(0), TOP)], "ideal")] if edges[0] < 0 < edges[-1] else []
    return chart(x, y, x_title, "rows", [*bars, *zero], about)


def calibration(
    said: Sequence[float],
    found: Sequence[float],
    counts: Sequence[int],
    x_title: str,
    y_title: str,
    about: str,
) -> str:
    """What was said beside what was found, each from 0 to 1: larger and thicker where more rows say so."""
    x, y = horizontal([0, 1]), vertical([0, 1])
    places = [(x.place(a), y.place(b)) for a, b in zip(said, found, strict=True)]
    lines = [
        path([one, other], f"first{' thin' if min(rows) < FEW else ''}")
        for (one, other), rows in zip(itertools.pairwise(places), itertools.pairwise(counts), strict=True)
    ]
    dots = [
        f'<circle class="first{" thin" if count < FEW else ""}" cx="{a:.1f}" cy="{b:.1f}" '
        f'r="{1.5 + 4 * math.sqrt(count / max(counts)):.1f}">'
        f"<title>{count:,} rows</title></circle>"
        for (a, b), count in zip(places, counts, strict=True)
    ]
    ideal = path([(x.place(0), y.place(0)), (x.place(1), y.place(1))], "ideal")
    return chart(x, y, x_title, y_title, [ideal, *lines, *dots], about)


def sparkline(counts: Sequence[int]) -> str:
    """A histogram of at most twelve bars, as small as a word."""
    most, width = max([*counts, 1]), 8
    bars = [
        f'<rect x="{n * width}" y="{24 - 23 * count / most:.1f}" width="{width - 1}" '
        f'height="{23 * count / most + 1:.1f}"/>'
        for n, count in enumerate(counts)
    ]
    return f'<svg class="spark" viewBox="0 0 {width * 12} 25" aria-hidden="true">{"".join(bars)}</svg>'
