"""`--plot`: the curves of a training as a picture: an SVG by our own drawing, a PNG with matplotlib."""

import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlp_xp.history import History
from mlp_xp.machine.whole_file import write_whole
from mlp_xp.report.charts import picture, spans_magnitudes

SUFFIXES = (".png", ".svg")

DPI = 150


def plot_problem(path: str | os.PathLike[str]) -> str | None:
    """Why curves cannot be drawn there, found out before any work; None if they can."""
    if Path(path).suffix.lower() not in SUFFIXES:
        return f"--plot {path}: a picture is a {' or '.join(SUFFIXES)} file; name one."
    if Path(path).suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
        return f"--plot {path} needs matplotlib: pip install 'mlp-xp[plot]', or name an .svg file."
    return None


def draw_curves(path: str | os.PathLike[str], history: History, loss: str) -> None:
    """Write a picture (.png or .svg, replaced when the new one is complete) of the losses over the epochs.

    Losses that are not finite leave a gap; `loss` is what the vertical axis is called.

    Raises OSError: the file cannot be written; ModuleNotFoundError: a .png file needs matplotlib, which is
    not installed.
    """
    curves = {"training": history.train_losses, "validation": history.validation_losses}
    curves = {name: values for name, values in curves.items() if values}
    draw_lines(path, curves, loss, "losses over the epochs", history.best_epoch)


def draw_lines(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[float]],
    loss: str,
    title: str,
    best: int = 0,
) -> None:
    """Write a picture of some curves over the epochs; as `draw_curves`."""
    if Path(path).suffix.lower() == ".svg":
        drawn = picture(curves, "epoch", loss, title, best)
        write_whole(path, drawn.encode("utf-8", "replace"))
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for name, values in curves.items():
        marker = "o" if len(values) < 3 else None
        axes.plot(range(1, len(values) + 1), values, marker=marker, label=name)
    if best:
        axes.axvline(best, color="grey", linestyle=":", label=f"best: epoch {best}")
    if spans_magnitudes(value for values in curves.values() for value in values):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=loss)
    axes.legend()
    axes.grid(alpha=0.3)
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png")
    write_whole(path, pixels.getvalue())
