"""Make the README's pictures of a training in a terminal and of its report.

    python docs/pictures.py DIAMONDS.csv

The file is the one in the package plotnine (plotnine/data/diamonds.csv). Linux, and Chromium for the report.
"""

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

FOLDER = Path(__file__).parent
WIDTH = 104
"""Characters of the terminal."""

COMMAND = (
    *("train", "diamonds.csv", "--target", "price"),
    *("--out", "diamonds.safetensors", "--report", "diamonds.html"),
)


def run_in_a_terminal(folder: Path) -> str:
    """Everything that the command writes to a terminal."""
    import fcntl
    import termios

    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, np.array([40, WIDTH, 0, 0], dtype=np.uint16).tobytes())
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(FOLDER.parent)}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlp_xp", *COMMAND], cwd=folder, env=environment, stdout=its, stderr=its
    )
    os.close(its)
    written = b""
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while part := os.read(ours, 65536):
            written += part
    os.close(ours)
    if process.wait():
        sys.exit(written.decode())
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that are left on the screen, with their colours: what was drawn over is gone."""
    lines, row, over = [""], 0, False
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r\n|\r|\n|[^\x1b\r\n]+", written):
        if token in ("\n", "\r\n"):
            row, over = row + 1, False
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            over = True
        elif token == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d*)A", token):
            row -= int(up[1] or 1)
        elif token.endswith("m") or not token.startswith("\x1b"):
            lines[row], over = token if over else lines[row] + token, False
    return lines


def draw_terminal(lines: list[str]) -> str:
    """A picture of a terminal, as SVG; with the reader's own fonts, as none is loaded."""
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), "mlp-xp ", " ".join(COMMAND)))
    for line in lines:
        console.print(Text.from_ansi(line), no_wrap=True)
    picture = console.export_svg(title="mlp-xp", theme=MONOKAI)
    return re.sub(r"@font-face\s*{.*?}", "", picture, flags=re.DOTALL)


def draw_page(page: Path, picture: Path) -> None:
    """A screenshot of the beginning of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("Chromium is not here.")
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1000,1530",
    )
    subprocess.run(
        [browser, *flags, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
    )


def main(diamonds: str) -> None:
    """Make both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(diamonds, folder / "diamonds.csv")
        lines = screen(run_in_a_terminal(folder))
        (FOLDER / "training.svg").write_text(draw_terminal(lines), encoding="utf-8")
        draw_page(folder / "diamonds.html", FOLDER / "report.png")


if __name__ == "__main__":
    main(sys.argv[1])
