"""`--plot`: the curves of a training as a picture."""

import xml.etree.ElementTree as ET

import pytest

from mlp_xp.history import History
from mlp_xp.report.charts import KINDS
from mlp_xp.report.plot import draw_curves, draw_lines, plot_problem
from mlp_xp.report.style import CHART

LOSSES = [3.0, 1.0, 0.5, float("inf")]
HISTORY = History(train_losses=LOSSES, validation_losses=[4.0, 2.0, 2.5, 3.0], best_epoch=2)


def texts_of(path):
    """What stands in an SVG file."""
    return [text.strip() for text in ET.parse(path).getroot().itertext()]


def test_an_svg_has_both_curves_with_their_names(tmp_path):
    draw_curves(tmp_path / "curves.svg", HISTORY, "squared_error")
    texts = texts_of(tmp_path / "curves.svg")
    assert {"epoch", "squared_error", "training", "validation", "best: epoch 2"} <= set(texts)


def test_six_curves_have_a_colour_and_a_name_each(tmp_path):
    draw_lines(tmp_path / "a.svg", {f"try {n}": [2.0, 1.0 + n] for n in range(6)}, "loss", "tries")
    paths = ET.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}path")
    kinds = [path.get("class") for path in paths]
    assert [kinds.count(kind) for kind in KINDS] == [2] * 6  # the curve, and its sign in the legend
    assert {f"try {n}" for n in range(6)} <= set(texts_of(tmp_path / "a.svg"))
    assert all(f"path.{kind} {{ stroke: var(--{kind})" in CHART for kind in KINDS)


@pytest.mark.needs("matplotlib")
def test_a_png_is_a_picture_with_more_than_one_colour(tmp_path):
    from matplotlib.image import imread

    draw_curves(tmp_path / "curves.PNG", HISTORY, "loss")
    pixels = imread(tmp_path / "curves.PNG")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert pixels[..., :3].std() > 0.01


def test_without_a_held_out_part_there_is_one_curve(tmp_path):
    draw_curves(tmp_path / "curves.svg", History(train_losses=[1.0]), "loss")
    texts = texts_of(tmp_path / "curves.svg")
    assert "training" in texts
    assert "validation" not in texts


def test_the_same_history_gives_the_same_bytes(tmp_path):
    draw_curves(tmp_path / "a.svg", HISTORY, "loss")
    draw_curves(tmp_path / "b.svg", HISTORY, "loss")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_name_from_outside_is_text(tmp_path):
    draw_curves(tmp_path / "curves.svg", HISTORY, "<b>&loss")
    assert "<b>&loss" in texts_of(tmp_path / "curves.svg")


@pytest.mark.needs("matplotlib")
def test_a_png_has_the_same_bytes_again(tmp_path):
    draw_curves(tmp_path / "a.png", HISTORY, "loss")
    draw_curves(tmp_path / "b.png", HISTORY, "loss")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_svg_needs_no_library(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert plot_problem("curves.svg") is None
    assert "or name an .svg file" in plot_problem("curves.png")


@pytest.mark.needs("matplotlib")
def test_a_png_is_no_problem():
    assert plot_problem("curves.png") is None


def test_other_kinds_of_files_are_refused_before_any_work():
    assert plot_problem("curves.jpeg") == "--plot curves.jpeg: a picture is a .png or .svg file; name one."
