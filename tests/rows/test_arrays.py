"""Rows of NumPy arrays: gathered, converted, never written, checked once."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlp_xp.rows.arrays import ArraySource, gather

REAL = ["?", "i1", "u1", "i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"]
LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "swapped bytes": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": lambda x: unaligned(x),
    "read only": lambda x: read_only(x),
}


def unaligned(x):
    memory = np.zeros(x.nbytes + 1, np.uint8)
    memory[1:] = np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)
    return memory[1:].view(x.dtype).reshape(x.shape)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("out_dtype", ["float32", "float64", "int32"])
def test_rows_are_those_of_fancy_indexing(layout, dtype, out_dtype):
    generator = np.random.default_rng(0)
    x = LAYOUTS[layout](generator.integers(0, 2 if dtype == "?" else 100, (50, 3)).astype(dtype))
    before = x.copy()
    index = generator.integers(0, 50, 400)
    out = np.full((400, 3), 7, out_dtype)
    gather(x, index, out)
    np.testing.assert_array_equal(out, before[index].astype(out_dtype))
    np.testing.assert_array_equal(x, before)


@given(
    x=hnp.arrays("f4", st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)),
    k=st.integers(0, 3),
    draw=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_any_shape_and_any_rows(x, k, draw):
    n_rows = len(x)
    y = np.arange(n_rows * k).reshape(n_rows, k) if k else None
    weight = np.arange(n_rows, dtype=float)
    source = ArraySource(x, y, weight)
    assert (source.n_rows, source.n_features, source.n_targets) == (*x.shape, k)
    rows = st.lists(st.integers(0, n_rows - 1), max_size=60)
    index = np.array(draw.draw(rows), dtype=np.int64)
    got_x = np.empty((len(index), x.shape[1]))
    got_y, got_weight = np.empty((len(index), k), np.int32), np.empty(len(index), np.float32)
    source.rows(index, got_x, got_y, got_weight)
    np.testing.assert_array_equal(got_x, x[index])
    if k:
        np.testing.assert_array_equal(got_y, y[index])
    np.testing.assert_array_equal(got_weight, weight[index])


def test_without_weights_each_row_counts_once():
    source = ArraySource([[1.0], [2.0]], [0, 1])
    weight = np.zeros(2)
    source.rows(np.array([0, 1]), np.empty((2, 1)), None, weight)
    assert weight.tolist() == [1, 1]
    assert not source.has_weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_allocated_in_steady_state(dtype):
    generator = np.random.default_rng(0)
    source = ArraySource(generator.random((2_000, 64), dtype), np.arange(2_000.0))
    index = generator.integers(0, 2_000, 512)
    x, y = np.empty((512, 64), "float32"), np.empty((512, 1), "float32")
    source.rows(index, x, y, None)
    tracemalloc.start()
    for _ in range(20):
        source.rows(index, x, y, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000


def test_threads_share_a_source_that_converts():
    x = np.random.default_rng(0).normal(size=(5_000, 20))
    source = ArraySource(x, np.arange(5_000))
    wrong = []

    def read(seed):
        generator = np.random.default_rng(seed)
        got, y = np.empty((300, 20), np.float32), np.empty((300, 1), np.int32)
        for _ in range(200):
            index = generator.integers(0, 5_000, 300)
            source.rows(index, got, y, None)
            if not (np.array_equal(got, x[index].astype("f4")) and (y[:, 0] == index).all()):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


X = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0],), ValueError, r"x has shape \(3,\); .* x.reshape\(-1, 1\), .* x.reshape\(1, -1\)"),
        ((np.float64(3),), ValueError, r"x has shape \(\); it needs two axes"),
        ((np.zeros((4, 2, 2)),), ValueError, r"Flatten each row: x.reshape\(4, -1\)"),
        ((X[:0],), ValueError, "at least one row"),
        ((X[:, :0],), ValueError, "one column"),
        ((X, [1, 2, 3]), ValueError, r"y has shape \(3,\); with 4 rows in x it must be \(4,\)"),
        ((X, np.zeros((4, 0))), ValueError, r"y has shape \(4, 0\)"),
        ((X, None, [1, 2]), ValueError, r"sample_weight has shape \(2,\); with 4 rows"),
        ((X, None, [1, 2, -3, 4]), ValueError, r"sample_weight\[2\]=-3 is negative"),
        ((X, None, [1, 2, np.nan, 4]), ValueError, r"sample_weight\[2\] is nan"),
        ((X, [0, 1, np.nan, 2]), ValueError, r"y\[2\] is nan \(row 2, counted from 0\)"),
        ((np.where(X == 7, np.inf, X),), ValueError, r"x\[2, 1\] is inf \(row 2, column 1, counted"),
        (([["a", "b"]],), TypeError, r"x holds text \(dtype <U1\); .* code each text"),
        ((X, ["a", "b", "c", "d"]), TypeError, "y holds text"),
        ((np.array([[1, "b"]], object),), TypeError, "x holds Python objects"),
        ((X + 1j,), TypeError, "x holds complex numbers"),
        (
            (np.array([["2020-01-01"]], "M8[D]"),),
            TypeError,
            r"x holds dates .*; numbers are needed: count seconds",
        ),
        ((np.zeros(3, [("a", "f4")]),), TypeError, "x holds structured records"),
        ((np.ma.array(X, mask=X > 5),), TypeError, "x has masked values"),
    ],
)
def test_what_can_not_be_used_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ArraySource(*arguments)


def test_all_wrong_shapes_are_said_at_once():
    with pytest.raises(ValueError) as caught:
        ArraySource(X, [1, 2], [1])
    assert "y has shape" in str(caught.value)
    assert "sample_weight has shape" in str(caught.value)


@pytest.mark.needs("scipy")
def test_sparse_matrices_are_refused():
    from scipy import sparse

    with pytest.raises(TypeError, match=r"x is sparse \(csr_array\); pass x.toarray\(\)"):
        ArraySource(sparse.csr_array(X))


def test_not_a_number_is_found_far_down():
    x = np.zeros((400_000, 3), np.float32)
    x[399_999, 2] = np.nan
    with pytest.raises(ValueError, match=r"x\[399999, 2\] is nan"):
        ArraySource(x)
    ArraySource(x, check=False)


def test_memory_maps_are_looked_through_when_asked(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1.0, 2.0], [3.0, np.nan]]))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = ArraySource(mapped[:, :], [1, 2])
    with pytest.raises(ValueError, match=r"x\[1, 1\] is nan"):
        source.check_finite()


def test_a_few_class_numbers_stay_those_that_were_given(tmp_path):
    few, many, numbers = np.zeros(5, np.int64), np.zeros(200_000, np.int64), np.zeros(5)
    sources = [ArraySource(np.zeros((len(y), 1)), y) for y in (few, many, numbers)]
    for y in (few, many, numbers):
        y[:] = 3
    assert [source.y[0, 0] for source in sources] == [0, 3, 3]


@pytest.mark.parametrize("mode", ["r", "c"])
def test_a_map_whose_file_changes_is_noticed(tmp_path, mode):
    path = tmp_path / "x.npy"
    np.save(path, X)
    source = ArraySource(np.load(path, mmap_mode=mode))
    out = np.empty((1, 3))
    source.rows(np.array([1]), out, None, None)
    source.check_unchanged()
    np.save(path, X[:2])
    for look in (source.check_unchanged, lambda: source.rows(np.array([1]), out, None, None)):
        with pytest.raises(RuntimeError, match=r"x\.npy was changed while it was in use"):
            look()
    path.unlink()
    with pytest.raises(RuntimeError, match=r"x\.npy was deleted"):
        source.check_unchanged()


def test_the_owner_of_a_map_may_write_it(tmp_path):
    mapped = np.memmap(tmp_path / "x", "f4", "w+", shape=(4, 2))
    source = ArraySource(mapped)
    mapped[:] = 3
    mapped.flush()
    out = np.empty((1, 2), np.float32)
    source.rows(np.array([2]), out, None, None)
    assert out.tolist() == [[3, 3]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("where", "place"), [("x", (7, 2)), ("y", (7,)), ("weight", (7,))])
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_rows_of_a_map_are_checked_when_they_are_gathered(tmp_path, dtype, where, place, value):
    arrays = {"x": np.ones((9, 3), dtype), "y": np.ones(9, dtype), "weight": np.ones(9, dtype)}
    arrays[where][place] = value
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    if where == "weight" and value < 0:
        with pytest.raises(ValueError, match=r"sample_weight\[7\]=-inf is negative"):
            ArraySource(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays))
        return
    source = ArraySource(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays))
    x, y, weight = np.empty((4, 3), np.float32), np.empty((4, 1), np.float32), np.empty(4, np.float32)
    source.rows(np.array([0, 8, 2, 3]), x, y, weight)
    column = ", column 2" if where == "x" else ", column 0" if where == "y" else ""
    with pytest.raises(
        ValueError, match=rf"{where}\.npy\[7.*\] is -?(nan|inf) \(row 7{column}, counted from 0\)"
    ):
        source.rows(np.array([1, 7, 4]), x[:3], y[:3], weight[:3])


def test_the_largest_numbers_of_a_map_are_no_mistake(tmp_path):
    np.save(tmp_path / "x.npy", np.full((9, 3), 3e38, np.float32))
    source = ArraySource(np.load(tmp_path / "x.npy", mmap_mode="r"))
    x = np.empty((9, 3), np.float32)
    source.rows(np.arange(9), x, None, None)
    assert (x == np.float32(3e38)).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32])
def test_a_class_number_that_became_too_large_is_not_another_class(dtype):
    """Where it has changed since it was looked at: 2^40 has no room in int32, and 2^32 would be 0."""
    labels = np.zeros(300_000, dtype)
    source = ArraySource(np.zeros((300_000, 1)), labels)
    labels[[3, 4]] = np.iinfo(dtype).max, np.array(2).astype(dtype)
    y = np.empty((2, 1), np.int32)
    source.rows(np.array([3, 4]), np.empty((2, 1)), y, None)
    assert y.ravel().tolist() == [2**31 - 1, 2]


def test_weights_that_became_negative_are_refused():
    weights = np.ones(10)
    source = ArraySource(np.zeros((10, 1)), None, weights)
    weights[7] = -2
    with pytest.raises(ValueError, match=r"sample_weight\[7\]=-2\.0 is negative"):
        source.rows(np.array([1, 7]), np.empty((2, 1)), None, np.empty(2))
