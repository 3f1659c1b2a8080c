""".npy and .npz files: mapped or read, never trusted, never written."""

import contextlib
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp_xp.rows.arrays import ArraySource
from mlp_xp.tables.files.opening import open_source

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def all_rows(source):
    x = np.empty((source.n_rows, source.n_features))
    y = np.empty((source.n_rows, source.n_targets))
    weight = np.empty(source.n_rows)
    source.rows(np.arange(source.n_rows), x, y, weight)
    return x, y, weight


def npy(shape, dtype="<f4", values=b"", fortran=False):
    """A file with any header one likes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    text += b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_files_are_mapped_and_not_read(tmp_path, order):
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    np.save(tmp_path / "y.npy", np.arange(4))
    np.save(tmp_path / "w.npy", np.array([1.0, 2, 3, 4]))
    for name in ("x.npy", "y.npy", "w.npy"):
        (tmp_path / name).chmod(0o444)
    source = open_source(tmp_path / "x.npy", target=tmp_path / "y.npy", weight_column=str(tmp_path / "w.npy"))
    x, y, weight = all_rows(source)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, np.arange(4)[:, None])
    np.testing.assert_array_equal(weight, [1, 2, 3, 4])
    assert isinstance(source, ArraySource)
    assert not source.x.flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_read(tmp_path, save):
    save(tmp_path / "d.npz", x=np.asfortranarray(X), y=np.arange(4), labels=np.ones((4, 2)))
    x, y, weight = all_rows(open_source(tmp_path / "d.npz"))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, np.arange(4)[:, None])
    np.testing.assert_array_equal(weight, 1)
    assert open_source(tmp_path / "d.npz", target="labels").n_targets == 2
    with pytest.raises(ValueError, match=r"no array 'label'; did you mean 'labels'\?"):
        open_source(tmp_path / "d.npz", target="label")
    with pytest.raises(ValueError, match=r"unpacks to \d+ bytes, over the memory limit of 10\. Save"):
        open_source(tmp_path / "d.npz", memory_limit=10)


def test_weights_of_an_npz_file(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.arange(4), sample_weight=np.arange(4.0))
    assert all_rows(open_source(tmp_path / "d.npz"))[2].tolist() == [0, 1, 2, 3]


LONG_HEADER = b"\x93NUMPY\x02\x00" + (2_000_000_000).to_bytes(4, "little") + b" " * 100
PICKLE = npy((4, 3), "|O", b"cos\nsystem\n(S'false'\ntR.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a whole .npy file: EOF"),
        (b"\x93NUMPY", "is not a whole .npy file"),
        (b"PK nonsense", "is not a whole .npy file: the magic string is not correct"),
        (npy((4, 3))[:40], "is not a whole .npy file"),
        (PICKLE, "holds Python objects, which are never loaded"),
        (npy((4, 3), values=bytes(47)), "is cut short: its header promises 48 bytes .* has 47"),
        (npy((2**40, 2**40), values=bytes(48)), "is cut short: its header promises"),
        (npy((-4, -3), values=bytes(48)), "is not a whole .npy file"),
        (npy((0, 3)), "is empty"),
        (npy((1,) * 50, values=bytes(4)), "is not a whole .npy file"),
        (npy((3,), values=bytes(12)), r"x has shape \(3,\)"),
        (npy((4, 3), "<U1", bytes(48)), "x holds text"),
        (npy("__import__('os').getpid()", values=bytes(48)), "is not a whole .npy file"),
        (b"\x93NUMPY\x01\x00\x70\x17" + b"(" * 3000 + b")" * 3000, "Cannot parse header: .{,180}$"),
        (LONG_HEADER, "is not a whole .npy file: its header is too long"),
        (npy((2**60, 3), "|S0"), "is empty: its values have no bytes"),
    ],
)
def test_broken_npy_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises((ValueError, TypeError), match=message):
        open_source(path)


def zipped(content, member="x.npy"):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return memory.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a whole .npz file"),
        (b"PK\x03\x04nonsense", "is not a whole .npz file"),
        (zipped(npy((4, 3), values=bytes(48)))[:-30], "is not a whole .npz file"),
        (zipped(b"", "nothing.txt"), "has no array 'x'"),
        (zipped(PICKLE), "holds Python objects, which are never loaded"),
        (zipped(npy((2**40, 2**20), values=bytes(48))), r"\[x\] is cut short"),
        (zipped(npy((4, 4), values=bytes(48))), r"\[x\] is cut short"),
        (zipped(LONG_HEADER + bytes(1 << 20)), r"\[x\] is not a whole .npy file: its header is too long"),
        (zipped(npy((2**60, 3), "|S0")), r"\[x\] is empty: its values have no bytes"),
    ],
)
def test_broken_npz_files_are_refused(tmp_path, content, message):
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(path)


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["x.npy", "d.npz"]))
@settings(deadline=None, max_examples=300)
def test_damaged_files_end_in_rows_or_in_our_error(tmp_path_factory, seed, kind):
    generator = np.random.default_rng(seed)
    memory = io.BytesIO()
    if kind == "x.npy":
        np.save(memory, X)
    else:
        np.savez_compressed(memory, x=X, y=np.arange(4))
    content = np.frombuffer(memory.getvalue(), np.uint8).copy()
    for _ in range(generator.integers(1, 4)):
        content[generator.integers(len(content))] = generator.integers(256)
    path = tmp_path_factory.mktemp("damaged") / kind
    path.write_bytes(content[: generator.integers(len(content) // 2, len(content) + 1)].tobytes())
    with contextlib.suppress(ValueError, TypeError):
        source = open_source(path)
        index = np.arange(min(4, source.n_rows))
        source.rows(index, np.empty((len(index), source.n_features)), None, None)


def test_values_that_are_rows_of_values_themselves(tmp_path):
    content = npy((4,), "(3,)<f4", X[:4].astype("<f4").tobytes())
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "d.npz").write_bytes(zipped(content))
    for name in ("x.npy", "d.npz"):
        found = np.empty((4, 3), np.float32)
        open_source(tmp_path / name).rows(np.arange(4), found, None, None)
        np.testing.assert_array_equal(found, X[:4].astype("f4"))


def test_missing_files_are_named_with_what_there_is(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*z\.npy'\. There are: x\.npy"):
        open_source(tmp_path / "z.npy")


def test_columns_of_arrays_have_no_names(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match=r"exclude: the columns of \.npy files have no names"):
        open_source(tmp_path / "x.npy", exclude="a")


def test_a_file_cut_short_while_it_is_read_is_an_error_and_no_crash(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((100_000, 10)))
    source = open_source(path)
    os.truncate(path, 4096)
    with pytest.raises(RuntimeError, match=r"x\.npy was changed while it was in use \(8,000,128"):
        source.rows(np.array([99_999]), np.empty((1, 10)), None, None)
