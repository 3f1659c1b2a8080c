"""Bad input on the command line: what was given, what is needed, what to do; and nothing is changed."""

import os
import sys

import numpy as np
import pytest
from command_line import runner, snapshot

from mlp_xp import Network, save
from mlp_xp.tables.model import TableModel

run = pytest.fixture(runner)

HEADER = "a,b,price\n"
ROWS = "1,2,3\n4,5,6\n7,8,9\n2,1,4\n"

CSV = {
    "good.csv": HEADER + ROWS,
    "gap.csv": HEADER + ROWS + "1,,3\n",
    "nan.csv": HEADER + ROWS + "nan,1,3\n",
    "inf.csv": HEADER + ROWS + "1,-inf,3\n",
    "text.csv": HEADER + ROWS + "1,five,3\n",
    "target_gap.csv": HEADER + ROWS + "1,2,\n",
    "target_inf.csv": HEADER + ROWS + "1,2,inf\n",
    "target_text.csv": HEADER + ROWS + "1,2,cheap\n",
    "none.csv": HEADER,
    "empty.csv": "",
    "one.csv": HEADER + "1,2,3\n",
    "same.csv": HEADER + "1,2,3\n4,5,3\n2,2,3\n",
    "same_class.csv": "a,kind\n1,x\n2,x\n3,x\n",
    "short_row.csv": HEADER + ROWS + "1,2\n",
    "weights.csv": "a,w,price\n1,1,2\n2,-1,3\n4,2,5\n",
    "huge.csv": HEADER + "1e200,1,2\n-1e200,2,3\n0,3,4\n1,2,5\n",
    "counts.csv": HEADER + ROWS + "1,2,-3\n",
    "file.xyz": HEADER + ROWS,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data that is good and data that is not, which must stay as it is."""
    for name, text in CSV.items():
        (tmp_path / name).write_text(text)
    x = np.arange(20.0).reshape(10, 2)
    arrays = {
        "x": x,
        "y": np.arange(10.0),
        "short": np.arange(5.0),
        "nan": np.where(x == 7, np.nan, x),
        "inf": np.where(x == 8, np.inf, x).astype("f4"),
        "text": np.array([["a"]]),
        "none": np.zeros((0, 2)),
        "line": np.arange(10.0),
        "constant": np.ones(10),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "good.npz", x=x, y=arrays["y"])
    np.savez(tmp_path / "nan.npz", x=arrays["nan"], y=arrays["y"])
    np.savez(tmp_path / "nan_y.npz", x=x, y=np.where(arrays["y"] == 4, np.nan, arrays["y"]))
    np.savez(tmp_path / "short.npz", x=x, y=arrays["short"])
    np.savez(tmp_path / "alone.npz", x=x)
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 2)), y=np.zeros(0))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(run, folder, *arguments):
    """The errors of a command that must be refused and must leave the folder as it was."""
    before = snapshot(folder)
    outcome = run(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.errors
    assert snapshot(folder) == before
    return "\n".join(outcome.errors)


DATA = [
    # NaN and infinity: column and row are named.
    ("inf.csv --target price", "inf.csv, row 5 (line 6), column 'b' holds '-inf', which is infinite"),
    ("target_gap.csv --target price", "row 5 (line 6), column 'price' holds nothing"),
    ("target_inf.csv --target price", "row 5 (line 6), column 'price' holds 'inf'"),
    ("nan.npz", "nan.npz: x[3, 1] is nan (row 3, column 1, counted from 0)"),
    ("nan_y.npz", "nan_y.npz: y[4] is nan (row 4, counted from 0)"),
    ("nan.npy --target y.npy", "nan.npy, y.npy: x[3, 1] is nan"),
    ("inf.npy --target y.npy", "inf.npy, y.npy: x[4, 0] is inf"),
    ("huge.csv --target price", "column 'a' has values so large"),
    # Text in a numeric column.
    (
        "text.csv --target price",
        "text.csv, row 5 (line 6), column 'b' holds 'five', where a number is needed",
    ),
    ("target_text.csv --target price", "target 'price' holds text among numbers: row 5 is 'cheap'"),
    ("text.npy --target y.npy", "text.npy, y.npy: x holds text"),
    # Missing targets.
    ("good.csv", "say which to predict with --target NAME. Known: a, b, price."),
    ("goood.csv --target price", "/goood.csv'. Did you mean 'good.csv'?"),
    ("good.csv price", "a column to predict with --target."),
    ("good.csv --target prise", "good.csv has no column 'prise'; did you mean 'price'?"),
    ("good.csv --target price,c", "good.csv has no column 'c'"),
    ("x.npy", "x.npy holds inputs alone: name the file with targets, --target y.npy"),
    ("alone.npz", "alone.npz has no targets"),
    ("good.npz --target z", "has no array 'z'"),
    ("good.csv --target price --weight-column w", "good.csv has no column 'w'"),
    ("good.csv --target price --exclude c", "good.csv has no column 'c'"),
    ("good.csv --target price --text c", "good.csv has no column 'c'"),
    ("good.csv --target price --exclude a,b", "no column of good.csv is left as a feature"),
    # Too few rows, too few values.
    ("none.csv --target price", "none.csv has a line of column names and no rows below it"),
    ("empty.csv --target price", "empty.csv is empty"),
    ("none.npz", "at least one row and one column are needed"),
    ("none.npy --target y.npy", "none.npy is empty"),
    ("one.csv --target price", "1 row is too few to hold out a part of 0.1"),
    ("good.csv --target price --validation 0.99", "4 rows are too few to hold out a part of 0.99"),
    ("same.csv --target price", "target price has a single value in the 2 rows to train on"),
    ("same.csv --target price --task classification", "target price has a single value"),
    ("same_class.csv --target kind", "target kind has a single value"),
    ("x.npy --target constant.npy", "target y has a single value"),
    # Lengths and shapes.
    ("x.npy --target short.npy", "x.npy, short.npy: y has shape (5,); with 10 rows in x it must be (10,)"),
    ("short.npz", "short.npz: y has shape (5,); with 10 rows in x"),
    ("line.npy --target y.npy", "x has shape (10,); it needs two axes"),
    ("short_row.csv --target price", "row 5 (line 6) has 2 values, but there are 3 columns"),
    # Weights and targets without a meaning.
    ("weights.csv --target price --weight-column w", "a sample weight is 0 or more"),
    ("counts.csv --target price --loss poisson", "targets >= 0, but row 5, target 'price' is -3"),
    ("good.csv --target price --loss binary_cross_entropy", "needs two classes, or targets in [0, 1]"),
    ("--dataset iris --loss squared_error", "is for numbers, but target 'class' has classes"),
    ("--dataset iris --loss binary_cross_entropy", "for two classes, but target 'class' has 3"),
    ("--dataset iris --task regression", "its task is classification"),
    ("--dataset linnerud --task classification", "classification needs one target column"),
    # Files.
    ("nope.csv --target price", "there is no file"),
    ("diabetes", "there is no file 'diabetes'; the data set that comes along is --dataset diabetes."),
    ("file.xyz --target price", "is of no known format"),
    ("--data good.csv --target price", "No such option: --data. DATA has no name: mlp-xp train DATA."),
    ("cut.npy --target y.npy", "cut.npy is cut short"),
    ("cut.npz", "cut.npz is not a whole .npz file"),
    ("results --target price", "there is no data file in 'results'"),
    ("*.parquet --target price", "there is no data file in '*.parquet'"),
]


@pytest.mark.needs("pyarrow", "sklearn")
@pytest.mark.parametrize(("arguments", "said"), DATA, ids=[arguments for arguments, _ in DATA])
def test_data(run, folder, arguments, said):
    assert said in refused(run, folder, "train", *arguments.split(), "--out", "m.safetensors")


OPTIONS = [
    # Unknown names.
    ("--dataset diabets", "unknown --dataset 'diabets'; did you mean 'diabetes'?"),
    ("--task regresion", "unknown --task 'regresion'; did you mean 'regression'?"),
    ("--activation rleu", "unknown activation 'rleu'; did you mean 'relu'?"),
    ("--activation relu,tahn", "unknown activation 'tahn'; did you mean 'tanh'?"),
    ("--initializer he_unifrom", "unknown initializer 'he_unifrom'; did you mean 'he_uniform'?"),
    ("--initializer given", "weights of your own can be given from Python only"),
    ("--loss hubr", "unknown loss 'hubr'; did you mean 'huber'?"),
    ("--loss huber:dleta=2", "loss 'huber' has no parameter 'dleta'; did you mean 'delta'?"),
    ("--loss huber:2", "'2' is not PARAMETER=VALUE"),
    ("--loss huber:delta=-2", "loss 'huber': delta=-2 must be a finite number > 0"),
    ("--schedule reduce_on_plateau:patience=0", "'reduce_on_plateau': patience=0 must be a whole number"),
    ("--optimizer adm", "unknown optimizer 'adm'; did you mean 'adam'?"),
    ("--schedule cosin", "unknown schedule 'cosin'; did you mean 'cosine'?"),
    ("--order shufled", "unknown order 'shufled'; did you mean 'shuffled'?"),
    ("--keep bst", "unknown --keep 'bst'; did you mean 'best'?"),
    ("--on-divergence rolback", "unknown --on-divergence 'rolback'; did you mean 'rollback'?"),
    ("--reduction men", "unknown --reduction 'men'; did you mean 'mean'?"),
    ("--device cpuu", "unknown device 'cpuu'; known: 'cpu', 'cuda', 'cuda:N'"),
    ("--dtype float23", "unknown --dtype 'float23'; did you mean 'float32'?"),
    # Negative and zero rates and sizes.
    *((f"--learning-rate {v}", f"--learning-rate={float(v)} must be a finite number > 0") for v in (0, -1)),
    *((f"--learning-rate {v}", "must be a finite number > 0") for v in ("nan", "inf", "1e999")),
    *((f"--hidden {v}", f"--hidden={v.split(',')[0]} must be a whole number >= 1") for v in ("0", "-5,3")),
    ("--hidden 3,x", "--hidden='3,x' must be whole numbers with commas between them, such as 64,64"),
    ("--hidden 3,,4", "--hidden='3,,4' must be whole numbers"),
    ("--hidden 2.5", "--hidden='2.5' must be whole numbers"),
    *((f"--batch-size {v}", f"--batch-size={v} must be a whole number >= 1") for v in (0, -1)),
    ("--batch-size ful", "--batch-size='ful' must be a whole number >= 1, 'full' for all rows, or 'auto'"),
    *((f"--epochs {v}", f"--epochs={v} must be a whole number >= 1") for v in (0, -1)),
    ("--epochs 2.5", "'2.5' is not a whole number"),
    ("--validation 1", "--validation=1.0 must be a finite number >= 0 and < 1"),
    ("--validation -0.1", "--validation=-0.1 must be a finite number >= 0 and < 1"),
    ("--patience -1", "--patience=-1 must be a whole number >= 0"),
    ("--tolerance -1", "--tolerance=-1.0 must be a finite number >= 0"),
    ("--loss-below nan", "--loss-below=nan must be a finite number"),
    ("--time-budget 0", "--time-budget='0' must be a time > 0, such as 90s, 10min or 1h"),
    ("--l1 -1", "--l1=-1.0 must be a finite number >= 0"),
    ("--l2 -1", "--l2=-1.0 must be a finite number >= 0"),
    ("--dropout 1", "dropout=1.0 must be a finite number >= 0 and < 1"),
    ("--dropout -0.1", "dropout=-0.1 must be a finite number >= 0 and < 1"),
    ("--dropout 0.1,0.2,0.3", "dropout has 3 rates, but this network has 2 hidden layers"),
    ("--clip-norm 0", "--clip-norm=0.0 must be a finite number > 0"),
    ("--seed -1", "--seed=-1 must be a whole number >= 0"),
    ("--activation relu,relu,relu,relu", "names 4, but there are 2 hidden layers"),
    # What does not go together.
    ("--target price", "--target: name the DATA that it belongs to"),
    ("good.csv --target price --dataset iris", "both DATA good.csv and --dataset iris are given"),
    ("x.npy --target y.npy --exclude x0", "--exclude: the columns of x.npy have no names"),
    ("--rate-factors biases=-1", "option '--rate-factors': biases=-1 must be a finite number > 0."),
    ("--optimizer lbfgs --dropout 0.1", "no --dropout"),
    ("--optimizer lbfgs --batch-size 8", "it takes --batch-size full"),
    # Where the model cannot be written.
    ("--out nope/m.safetensors", "--out nope/m.safetensors: there is no folder nope. Make it first."),
    ("--out s3://a/m.safetensors", "m.safetensors: files are written to this machine alone. Name one here."),
    ("--out results", "--out results is a folder: name a file."),
    ("--out /dev/null", "--out /dev/null is a device or a pipe: name a file."),
    ("good.csv --target price --out good.csv", "--out good.csv is a file that is read: name another."),
    ("x.npy --target y.npy --out y.npy", "--out y.npy is a file that is read: name another."),
]


@pytest.mark.parametrize(("arguments", "said"), OPTIONS, ids=[arguments for arguments, _ in OPTIONS])
def test_options(run, folder, arguments, said):
    out = [] if "--out" in arguments else ["--out", "m.safetensors"]
    assert said in refused(run, folder, "train", *arguments.split(), *out)


def test_all_bad_options_are_named_at_once(run, folder):
    arguments = "--epochs 0 --learning-rate -1 --hidden 0 --loss hubr --optimizer adm --keep bst --l1 -2"
    said = refused(run, folder, "train", *arguments.split(), "--out", "nope/m", "--device", "gpu")
    for part in (
        "--epochs=0",
        "--learning-rate",
        "--hidden=0",
        "'huber'",
        "'adam'",
        "'best'",
        "--l1",
        "nope",
        "gpu",
    ):
        assert part in said
    assert len(said.splitlines()) == 9


def test_an_option_is_refused_before_the_data_is_read(run, folder, monkeypatch):
    def open_nothing(*_, **__):
        raise AssertionError("data is read")

    monkeypatch.setattr("mlp_xp.tables.reading.open_source", open_nothing)
    refused(run, folder, "train", "good.csv", "--target", "price", "--epochs", "0")


def test_a_folder_without_permission(run, folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "--out m cannot be written: no permission" in refused(run, folder, "train", "--out", "m")


def test_an_existing_model_is_kept_when_the_next_training_is_refused(run, folder):
    assert run("train", "--epochs", "1", "--out", "m.safetensors").status == 0
    refused(run, folder, "train", "--epochs", "1", "--loss", "hubr", "--out", "m.safetensors")
    refused(run, folder, "train", "good.csv", "--target", "prise", "--out", "m.safetensors")


def test_pyarrow_is_asked_for_where_it_is_needed(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = refused(run, folder, "train", "good.csv", "--target", "price")
    assert 'needs pyarrow, which is not installed: pip install "mlp-xp[files]"' in said
    assert run("train", "--epochs", "1").status == 0


# The other commands


@pytest.fixture
def models(folder):
    network = Network((2, 3, 1), seed=1)
    save(network, folder / "network.safetensors")
    (folder / "broken.safetensors").write_bytes((folder / "network.safetensors").read_bytes()[:-1])
    (folder / "model.onnx").write_bytes(b"of another kind")
    return folder


OTHERS = [
    ("predict", "", "Missing argument 'MODEL'"),
    ("predict", "network.safetensors", "DATA is missing: name a file, or a --dataset."),
    ("evaluate", "network.safetensors", "DATA is missing: name a file, or a --dataset."),
    ("predict", "none.safetensors x.npy", "there is no model file none.safetensors"),
    ("show", "none.safetensors", "there is no model file none.safetensors"),
    ("show", "s3://a/m.safetensors", "Models are read from this machine alone: download it first."),
    ("show", "results", "results is a folder: name a model file."),
    ("show", "broken.safetensors", "broken.safetensors is not a model file of mlp_xp, or is cut short"),
    ("show", "good.csv", "good.csv is not a model file of mlp_xp, or is cut short"),
    ("show", "model.onnx", "model.onnx is written for other programs: name the model it was made of"),
    ("evaluate", "broken.safetensors x.npy --target y.npy", "broken.safetensors is not a model file"),
    ("predict", "network.safetensors good.csv", "good.csv has 3 columns (a, b, price), but this network was"),
    ("predict", "network.safetensors nan.npy --out p.csv", "nan.npy: x[3, 1] is nan"),
    ("predict", "network.safetensors text.csv --exclude price --out p.csv", "column 'b' holds 'five'"),
    ("predict", "network.safetensors x.npy --out nope/p.csv", "there is no folder nope"),
    ("predict", "network.safetensors x.npy --out x.npy", "--out x.npy is a file that is read"),
    ("predict", "network.safetensors x.npy --out network.safetensors", "is a file that is read"),
    (
        "predict",
        "network.safetensors x.npy --out p.parquet",
        "predictions are written as CSV. Name a .csv file",
    ),
    ("predict", "network.safetensors x.npy --out p.xlsx", "predictions are written as CSV. Name a .csv file"),
    ("predict", "good.csv network.safetensors", "MODEL good.csv is a table: the model comes first, then"),
    ("evaluate", "good.csv", "MODEL good.csv is a table: the model comes first, then the table (MODEL DATA)"),
    ("export", "network.safetensors network.onnx", "(network.onnx). A file to write is named with --out."),
    ("predict", "network.safetensors x.npy --device gpu --out nope/p", "unknown device 'gpu'"),
    ("predict", "network.safetensors --dataset iris --exclude a", "--exclude: name the DATA"),
    ("predict", "network.safetensors --dataset irs", "unknown --dataset 'irs'; did you mean 'iris'?"),
    ("evaluate", "network.safetensors x.npy", "x.npy holds inputs alone: name the file with targets"),
    ("evaluate", "network.safetensors good.csv", "say which to predict with --target NAME"),
    ("evaluate", "network.safetensors good.csv --target prize", "did you mean 'price'?"),
    ("evaluate", "network.safetensors one.csv --target a,price", "has 1 columns (b), but this network"),
]


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(("command", "arguments", "said"), OTHERS, ids=[f"{c} {a}" for c, a, _ in OTHERS])
def test_other_commands(run, models, command, arguments, said):
    assert said in refused(run, models, command, *arguments.split())


@pytest.mark.needs("pyarrow")
def test_a_prediction_that_fails_half_way_leaves_no_file(run, models, monkeypatch):
    def fail_after_one(self, source):
        yield np.zeros((1, 1))
        raise RuntimeError("the data was changed while it was read")

    monkeypatch.setattr(TableModel, "predict_parts", fail_after_one)
    (models / "p.csv").write_text("what was there")
    assert "was changed" in refused(run, models, "predict", "network.safetensors", "x.npy", "--out", "p.csv")
