"""`--plot`: the curves of a training as a picture."""

import xml.etree.ElementTree as ET

import pytest

from mlp_xp.history import History
from mlp_xp.report.plot import draw_curves, plot_problem

pytestmark = pytest.mark.needs("matplotlib")

LOSSES = [3.0, 1.0, 0.5, float("inf")]
HISTORY = History(train_losses=LOSSES, validation_losses=[4.0, 2.0, 2.5, 3.0], best_epoch=2)


def texts_of(path):
    """What stands in an SVG file; matplotlib writes each text in a comment beside its outlines."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    return [e.text.strip() for e in ET.parse(path, parser).iter() if e.tag is ET.Comment]


def test_an_svg_has_both_curves_with_their_names(tmp_path):
    draw_curves(tmp_path / "curves.svg", HISTORY, "squared_error")
    texts = texts_of(tmp_path / "curves.svg")
    assert {"epoch", "squared_error", "training", "validation", "best: epoch 2"} <= set(texts)


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
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        draw_curves(tmp_path / name, HISTORY, "loss")
    for suffix in ("svg", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_other_kinds_of_files_are_refused_before_any_work():
    assert plot_problem("curves.png") is None
    assert plot_problem("curves.jpeg") == "--plot curves.jpeg: a picture is a .png or .svg file; name one."
