"""Pages in headless Chromium: what it says of them, and how wide they become."""

import os
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium():
    """The program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def look(pages, pixels, folder):
    """Load pages in frames that many pixels wide.

    Parameters
    ----------
    pages : list of str
        Their HTML.
    pixels : int
    folder : path
        For what it takes.

    Returns
    -------
    widths : list of int
        How wide each page became: more than `pixels` where it must be scrolled sideways.
    console : list of str
        What Chromium wrote on its console about them.
    """
    frames = []
    for number, text in enumerate(pages):
        path = folder / f"page-{number}.html"
        path.write_text(text, encoding="utf-8")
        frames.append(
            f'<iframe src="{path.as_uri()}" style="width: {pixels}px; height: 800px; border: 0"></iframe>'
        )
    around = folder / "around.html"
    around.write_text(
        f"<p></p>{''.join(frames)}"
        "<script>onload = () => { document.querySelector('p').textContent = Array.from("
        "document.querySelectorAll('iframe'), each => each.contentDocument.documentElement.scrollWidth) }"
        "</script>",
        encoding="utf-8",
    )
    run = subprocess.run(
        [
            chromium(),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *("--disable-dev-shm-usage", "--allow-file-access-from-files", "--no-first-run"),
            *("--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"),
            f"--user-data-dir={folder / 'profile'}",
            around.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"HOME": str(folder)},
    )
    widths = [int(width) for width in re.search(r"<p>([\d,]*)</p>", run.stdout)[1].split(",")]
    console = [line.partition("CONSOLE:")[2] for line in run.stderr.splitlines() if "CONSOLE:" in line]
    return widths, console
