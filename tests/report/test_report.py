"""`--report`: what the page says is right, says it without running anything, and reads well in a browser."""

import html.parser
import re

import numpy as np
import pytest
from browser import look

from mlp_xp import Network
from mlp_xp.history import History
from mlp_xp.losses import BinaryCrossEntropy, Pinball, SoftmaxCrossEntropy, SquaredError
from mlp_xp.report import charts, findings
from mlp_xp.report.page import RunReport, page
from mlp_xp.rows.arrays import ArraySource
from mlp_xp.tables.evaluation import assess
from mlp_xp.tables.measured import Measured
from mlp_xp.tables.model import TableModel
from mlp_xp.tables.preparation import Category, Constant, Date, Inputs, Number, Targets
from mlp_xp.tables.sample import sample
from mlp_xp.version import VERSION

NASTY = "<script>alert('x')</script>"
COLUMNS = (
    Number("number & co", 1.0, 2.0, median=1.0, gaps=True),
    Category(NASTY, "text", ("a", '"><img src=x onerror=alert(1)>', "</td>"), other=True, gaps=True),
    Date("when", 19_000.0, 400.0, median=19_000.0, cycles=("year",)),
    Category("flag", "bool", ("false", "true")),
    Constant("constant", "number"),
    Number("a name that is very long and has no blank: " + "x" * 200, 0.0, 1.0),
    Number("עברית 😀", 0.0, 1.0),
    Constant("one word", "text"),
)
CASES = {
    "one number": (SquaredError(), ("price </h1>",), None),
    "a long name": (SquaredError(), ("y" * 300,), None),
    "many numbers": (SquaredError(), tuple(f"y{n}" for n in range(8)), None),
    "two numbers": (SquaredError(), ("y", NASTY), None),
    "quantiles": (Pinball((0.1, 0.5, 0.9)), ("y",), None),
    "quantiles of many": (Pinball((0.1, 0.9)), tuple(f"y{n}" for n in range(7)), None),
    "labels": (BinaryCrossEntropy(), ("y", "z"), None),
    "two classes": (SoftmaxCrossEntropy(), ("y",), ("no" * 100, NASTY)),
    "many classes": (SoftmaxCrossEntropy(), ("y",), tuple(f"{NASTY} {n}" for n in range(25))),
}


def raw_rows(n_rows, rng):
    x = rng.normal(size=(n_rows, len(COLUMNS)))
    x[::5, 0] = np.nan
    x[:, 1] = rng.integers(-1, 4, n_rows)
    x[:, 2] = rng.uniform(-200_000, 3_000_000, n_rows)
    x[:, 3] = rng.integers(0, 2, n_rows)
    x[:, 4] = 7
    return x


def model_and_rows(case, rng):
    """A model that was not trained, and its raw rows."""
    loss, names, levels = CASES[case]
    inputs = Inputs(COLUMNS)
    n_outputs = loss.n_outputs(len(names), levels and len(levels))
    network = Network((inputs.n_features, 6, n_outputs))
    network.output = loss.link
    targets = Targets.unscaled(names)
    model = TableModel(network, inputs, targets, levels, loss=loss, training={"optimizer": NASTY, "l2": 1e-4})
    x = raw_rows(300, rng)
    shape = (300, len(names))
    y = rng.normal(size=shape)
    if levels or isinstance(loss, BinaryCrossEntropy):
        y = rng.integers(0, len(levels or (0, 1)), shape).astype(float)
    return model, ArraySource(x, y, check=False)


def page_of(case, rng, *, held_out=True):
    model, rows = model_and_rows(case, rng)
    result = {
        "metrics": {"rmse": None, "accuracy": 0.5, f"r2_{NASTY}": 0.123456},
        "metrics_on": "held-out" if held_out else "training",
        "rows_measured": 30,
        "epochs": 3,
        "best_epoch": 2,
        "stopped": "reached 3 epochs",
        "seconds": 1.25,
        "device": "cpu",
        "dtype": "float32",
        "ranks": 1,
    }
    history = History(train_losses=[3.0, 2.0, float("inf")], validation_losses=[4.0, 3.0, 3.5], best_epoch=2)
    command = f"mlp-xp train '{NASTY}.csv' --target y"
    about_run = RunReport(f"{NASTY}.csv", [f"read from {NASTY}"], command, result, history, [0.1, 0.1, 0.01])
    return page(about_run, model, rows, rows)


class Reader(html.parser.HTMLParser):
    """The tags and the text of a page; every tag that is opened must be closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.attributes = set(), [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_names_and_values_are_shown_and_do_nothing(case, held_out, rng):
    read = Reader(page_of(case, rng, held_out=held_out))
    words = "".join(read.words)
    assert not read.tags & {"script", "img", "link", "iframe", "object", "base", "form", "a", "image", "use"}
    assert not [name for name, _ in read.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in words
    assert "@import" not in words
    _, targets, levels = CASES[case]
    shown = (NASTY,) if levels and len(levels) > 20 else levels or ()
    names = [*(column.name for column in COLUMNS), *targets[:6], *shown]
    assert [name for name in names if name not in words] == []
    assert f"mlp-xp train '{NASTY}.csv' --target y" in words
    assert '"><img src=x onerror=alert(1)>' in words


@pytest.mark.parametrize("case", ["many numbers", "quantiles of many"])
def test_targets_that_are_not_drawn_are_counted(case, rng):
    n_more = len(CASES[case][1]) - 6
    assert f"... and {n_more} more target{'s' * (n_more > 1)}." in page_of(case, rng)


def test_what_is_known_of_the_run_is_told(rng):
    words = re.sub(r"\s+", " ", " ".join(Reader(page_of("one number", rng)).words))
    for told in (
        "Why it stopped: reached 3 epochs",
        "undefined",
        "best: epoch 2",
        f"mlp_xp {VERSION}",
        "0.1235",
        "learning rate",
    ):
        assert told in words
    assert "20.00% missing" in words
    assert "always 7" in words


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("pixels", [320, 1200])
def test_a_browser_has_nothing_to_say_and_nothing_to_scroll_sideways(pixels, rng, tmp_path):
    widths, console = look([page_of(case, rng) for case in CASES], pixels, tmp_path)
    assert console == []
    assert widths == [pixels] * len(CASES)


@pytest.mark.needs("chromium")
def test_the_browser_would_tell_of_a_script_and_of_what_is_too_wide(rng, tmp_path):
    """A script that got in is stopped by the page's policy, and told of."""
    text = page_of("one number", rng)
    with_script = text.replace("<header>", f"<header>{NASTY}")
    too_wide = text.replace("<main>", "<main><p style='min-width: 900px'>.</p>")
    widths, console = look([with_script, too_wide], 400, tmp_path)
    assert widths[1] > 900
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


def test_a_moment_that_is_a_day_is_shown_as_one():
    column = Date("a", 18_000.0, 400.0)
    shown = [findings.value_of(column, days) for days in (18_770.0, 18_770.25, np.nan)]
    assert shown == ["2021-05-23", "2021-05-23 06:00", "missing"]


def test_columns_in_a_few_words():
    gap = np.nan
    said = findings.summary_of("a", "number", np.array([1.0, gap, 2.0, 6.0]))
    assert (said.gaps, said.words) == (0.25, "mean 3 ± 2.16, median 2, 1 to 6")
    assert sum(said.counts) == 3
    said = findings.summary_of("a", "text", np.array([0, 0, 1, -1, gap, 2.0]), ("x", "y"))
    assert (said.gaps, said.words) == (2 / 6, "x 50%, y 25%, (others) 25%")
    assert findings.summary_of("a", "date", np.array([0.0, 1.5, 0.25])).words == (
        "median 1970-01-01 06:00, 1970-01-01 00:00 to 1970-01-02 12:00"
    )
    assert findings.summary_of("a", "date", np.array([-800_000.0, 5e6])).words.startswith("median 7")
    assert findings.summary_of("a", "number", np.array([gap])).words == "no values"
    assert findings.summary_of("a", "text", np.array([0.0, 0.0])).words == "a single value"
    assert findings.summary_of("a", "number", np.array([2.0, 2.0])).words == "always 2"
    assert findings.summary_of("a", "number", np.array([1e16, 1e16 + 2])).counts == [2]


def test_calibration_by_hand():
    found = findings.calibration_of(np.array([0.04, 0.06, 0.95, 1.0]), np.array([False, True, True, True]))
    np.testing.assert_allclose(found.said, [0.05, 0.975])
    assert (found.found, found.counts) == ([0.5, 1.0], [2, 2])


@pytest.mark.needs("sklearn")
def test_confusions_are_scikit_learns():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    true, guess = rng.integers(0, 5, (2, 200))
    expected = metrics.confusion_matrix(true, guess, labels=range(5))
    np.testing.assert_array_equal(findings.confusions(true, guess, 5), expected)
    np.fill_diagonal(expected, 0)
    worst = findings.worst_confusions(true, guess, 3)
    assert [count for *_, count in worst] == sorted(expected.flat, reverse=True)[:3]
    assert all(expected[class_, taken_for] == count for class_, taken_for, count in worst)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_a_column_that_nothing_depends_on_is_worth_nothing(n_targets, rng):
    network = Network((2, n_targets), bias=False)
    network.parameters.weights[0][...] = np.float32([[2.0] * n_targets, [0.0] * n_targets])
    names = [f"y{n}" for n in range(n_targets)]
    model = TableModel(network, Inputs.plain(["used", "unused"]), Targets.unscaled(names))
    x = rng.normal(size=(500, 2))
    before = x.copy()
    rows = sample(ArraySource(x, np.tile(2 * x[:, :1], n_targets)), 0)
    metric, found = findings.importance_of_columns(model, rows, 0)
    assert metric == ("rmse" if n_targets == 1 else "r2")
    assert [each.name for each in found] == ["used", "unused"]
    assert (found[1].loss, found[1].spread) == (0.0, 0.0)
    # y = 2x; shuffled, the difference of two independent draws has twice the variance of one: 2 √2, or −1.
    np.testing.assert_allclose(found[0].loss, 2 * 2**0.5 if n_targets == 1 else 2.0, rtol=0.1)
    np.testing.assert_array_equal(rows.x, before)


@pytest.mark.parametrize(
    ("loss", "metric"), [("absolute_error", "mae"), ("huber:delta=2", "mae"), (None, "rmse")]
)
def test_columns_are_judged_by_errors_that_the_loss_heeds(loss, metric, rng):
    model = TableModel(Network((2, 1)), Inputs.plain(["a", "b"]), Targets.unscaled(["y"]), loss=loss)
    rows = sample(ArraySource(rng.normal(size=(50, 2)), np.zeros(50)), 0)
    assert findings.importance_of_columns(model, rows, 0)[0] == metric


def test_a_large_network_is_asked_on_fewer_rows_or_not_at_all(monkeypatch):
    monkeypatch.setattr(findings, "MOST_MULTIPLICATIONS", 1.2e8)
    rows = sample(ArraySource(np.arange(60000.0).reshape(20000, 3), np.zeros(20000)), 0)
    small, large, huge = (
        TableModel(Network((3, *hidden, 1)), Inputs.plain(["a", "b", "c"]), Targets.unscaled(["y"]))
        for hidden in ((), (300,), (600, 600))
    )
    assert findings.affordable(small, rows).n_rows == 20000
    fewer = findings.affordable(large, rows)
    assert 40 <= fewer.n_rows < 20000
    assert (fewer.x[0, 0], fewer.x[-1, 0]) == (0.0, 59997.0)
    assert findings.affordable(huge, rows) is None


def points_of(svg, kind):
    """The places of a path of a chart."""
    path = re.search(rf'<path class="{kind}" d="([^"]*)"', svg)[1]
    return [tuple(map(float, pair)) for pair in re.findall(r"([-\d.]+) ([-\d.]+)", path)]


def test_a_curve_goes_through_its_values():
    svg = charts.curves({"a": [1.0, 2.0, 3.0]}, "x", "y", "about")
    (x0, y0), (x1, y1), (x2, y2) = points_of(svg, "first")
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [float("nan")], [1e-300, 1e300], [5, float("inf"), 4], [1e16, 1e16 + 2]]
)
def test_curves_of_odd_values_are_drawn(values):
    svg = charts.curves({"a": values}, "x", "y", "about")
    places = [float(number) for number in re.findall(r"[ML]([-\d.einfa]+) ", svg)]
    assert np.isfinite(places).all()
    assert Reader(svg).tags >= {"svg", "text"}


def test_predictions_that_are_not_finite_are_left_out():
    x, y = np.array([1.0, np.inf, 2.0, np.nan]), np.array([1.0, 2.0, np.nan, 3.0])
    assert len(points_of(charts.points(x, y, "x", "y", "about"), "first dots")) == 1
    for values in (x, np.array([np.inf])):
        assert "inf" not in charts.histogram(values, "x", "about")
    assert "nan" not in charts.points(x[1:2], y[1:2], "x", "y", "about")


@pytest.mark.parametrize("values", [[1e20, 1e20], [1e16, 1e16 + 2], [1.0, np.nextafter(1.0, 2.0)]])
def test_values_too_near_each_other_for_bins_are_drawn(values):
    assert ": 2</title>" in charts.histogram(np.array(values), "x", "about")


def test_epochs_have_no_halves():
    svg = charts.curves({"a": [1.0, 2.0]}, "x", "y", "about")
    assert re.findall(r'<text class="x" [^>]*>([^<]*)<', svg) == ["1", "2"]
    svg = charts.curves({"a": [1.0]}, "x", "y", "about")
    assert re.findall(r'<text class="x" [^>]*>([^<]*)<', svg) == ["1"]


@pytest.mark.parametrize(("low", "high"), [(0.13, 1.9), (-1000, 1000), (1e-12, 3e-12), (999_999, 1_000_001)])
def test_ticks_are_round_and_within(low, high):
    ticks = charts.round_values(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert all(len(f"{tick:.9g}") <= 9 for tick in ticks)


def test_what_is_measured_and_what_to_try_is_told(rng):
    model, rows = model_and_rows("two classes", rng)
    of_model, others = assess(model, rows, seed=0), {"majority": assess(model, rows)}
    found = Measured("held-out", of_model, others, rows, sample(rows, 0))
    result = found.description() | {
        "advice": [f"Try another {NASTY}.", "Try --learning-rate 0.1."],
        "epochs": 3,
        "best_epoch": 2,
        "stopped": "reached 3 epochs",
        "seconds": 1.0,
        "device": "cpu",
        "dtype": "float32",
        "ranks": 1,
    }
    history = History(train_losses=[3.0, 2.0, 1.0], validation_losses=[4.0, 3.0, 3.5], best_epoch=2)
    about_run = RunReport("d.csv", [], "mlp-xp train", result, history, [0.1] * 3)
    text = page(about_run, model, rows, rows)
    assert 'Try <span class="option">--learning-rate</span> 0.1.' in text  # which does not break at a dash
    words = " ".join(Reader(text).words)
    for said in ("What to try", f"Try another {NASTY}.", "95% interval", "majority", "balanced accuracy"):
        assert said in words
    assert re.search(r"class\s+rows\s+precision\s+recall\s+f1", words)
    worst = found.model.worst[0]
    assert re.search(rf"Rows that it predicts worst.* {worst[0] + 1} .* {worst[2]:.1%}", words)
    assert "test=0.1 keeps" in words
