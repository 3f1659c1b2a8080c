"""Files that are cut short while they are mapped and read: our error, and the end of nothing."""

import subprocess
import sys
import textwrap

import pytest
from command_line import environment

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 2**32, reason="had on Linux with 64 bits"
)

START = """
    import os, sys
    import numpy as np
    from mlp_xp import Loader, Network, train
    from mlp_xp.machine.maps import Guard
    from mlp_xp.tables.files.opening import open_source

    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(20_000, 20)))
    np.save("y.npy", rng.normal(size=20_000))

    def cut_after_the_check(path):
        # As if another process did it between the last look at the size and the read.
        enter = Guard.__enter__
        def cut(self):
            os.truncate(path, 8192)
            return enter(self)
        Guard.__enter__ = cut

    def end(source):
        loader = Loader(source, batch_size=500)
        try:
            list(train(Network((source.n_features, 4, 1)), loader, max_epochs=3))
        except RuntimeError as error:
            print(error)
"""

SOURCES = {
    "an .npy file": """
        source = open_source("x.npy", "y.npy")
        cut_after_the_check("x.npy")
    """,
    "targets": """
        source = open_source("x.npy", "y.npy")
        cut_after_the_check("y.npy")
    """,
    "an array of the user's": """
        from mlp_xp.rows.arrays import ArraySource
        source = ArraySource(np.load("x.npy", mmap_mode="r"), np.load("y.npy"))
        cut_after_the_check("x.npy")
    """,
    "the cache": """
        import pyarrow as pa
        from pyarrow import parquet
        x = np.load("x.npy")
        table = pa.table({f"c{n}": column for n, column in enumerate(x.T)})
        parquet.write_table(table, "t.parquet")
        source = open_source("t.parquet", "c0", memory_limit=1000, cache_dir="c")
        cut_after_the_check(source.cache.path)
    """,
    "an Arrow file": """
        import pyarrow as pa
        from pyarrow import feather
        x = np.load("x.npy")
        table = pa.table({f"c{n}": column for n, column in enumerate(x.T)})
        feather.write_feather(table, "t.arrow", compression="uncompressed")
        source = open_source("t.arrow", "c0", memory_limit=1000)
        cut_after_the_check("t.arrow")
    """,
}


def ended(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(START) + textwrap.dedent(code)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_file_that_is_cut_short_while_it_is_read(source, tmp_path):
    done = ended(f"{textwrap.dedent(source)}end(source)", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "was cut short while it was read" in done.stdout


def test_what_is_not_ours_ends_as_it_did(tmp_path):
    code = """
        source = open_source("x.npy", "y.npy")
        mapped = np.load("x.npy", mmap_mode="r")
        os.truncate("x.npy", 8192)
        mapped.sum()
    """
    done = ended(code, tmp_path)
    assert done.returncode in (-7, 128 + 7)


def test_the_command_ends_with_a_line(tmp_path):
    code = """
        from mlp_xp.cli import main
        cut_after_the_check("x.npy")
        main(["train", "x.npy", "--target", "y.npy", "--epochs", "3", "--quiet", "--out", "m"])
    """
    done = ended(code, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("mlp-xp: error: ")
    assert "was cut short while it was read" in done.stderr
    assert not (tmp_path / "m").exists()
