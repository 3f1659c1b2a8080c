"""Kinds of files: good ones to start from, how they are damaged, and what a user does with one."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from mlp_xp import Loader, Network, load, save, train
from mlp_xp.cli import main
from mlp_xp.cli import train as command
from mlp_xp.losses import Pinball
from mlp_xp.saved.checkpoint import Checkpoints
from mlp_xp.saved.model_file import METADATA_KEY, checksum, sealed
from mlp_xp.tables.files.opening import open_source

from . import mutations

FILES = Path(__file__).parents[2] / "saved" / "model_files"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes
    ----------
    suffix : str
    good : callable (folder) -> list of bytes
        Contents of good files.
    damage : callable (random, content, others) -> bytes
        One of them, mutated.
    use : callable (path)
        What a user does with it; may say how it ended.
    libraries : sequence of str
        What it needs beyond the core.
    says : sequence of str
        How messages begin that come later than the reading, and so do not name the file.
    """

    suffix: str
    good: Callable[[Path], list[bytes]]
    damage: Callable[[Any, bytes, list[bytes]], bytes]
    use: Callable[[Path], str | None]
    libraries: Sequence[str] = ()
    says: tuple[str, ...] = ()


# Model files


def _models(folder: Path) -> list[bytes]:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3)), generator.normal(size=(40, 1))
    networks = [
        Network((3, 4, 2, 1), activation="tanh", bias=False, dtype="float64"),
        Network((3, 2, 5), activation=["relu", "identity"]),
        Network((3, 1)),
    ]
    quantiles = Network((3, 4, 3))
    next(train(quantiles, Loader(x, y, batch_size=8), loss=Pinball((0.1, 0.5, 0.9))))
    path, found = folder / "model.safetensors", []
    for network in (*networks, quantiles):
        save(network, path)
        found.append(path.read_bytes())
    return found + [each.read_bytes() for each in sorted(FILES.glob("*.safetensors"))]


def _damaged_model(random: Any, content: bytes, others: list[bytes]) -> bytes:
    if random.random() < 0.3:
        return mutations.damaged(random, content, others)
    header, tensors = mutations.safetensors_parts(content)
    document = json.loads(header["__metadata__"][METADATA_KEY])
    if random.random() < 0.2:
        header = mutations.changed_json(random, header)
        return mutations.safetensors_file(header, tensors)
    document = mutations.changed_json(random, document)
    if isinstance(document, dict) and random.random() < 0.8:
        document.pop("sha256", None)
        whole = {name: _tensor(each, tensors) for name, each in header.items() if name != "__metadata__"}
        try:
            text = sealed(document, whole)
        except ValueError:
            text = json.dumps(document)
    else:
        text = json.dumps(document)
    header["__metadata__"] = {METADATA_KEY: text}
    return mutations.safetensors_file(header, tensors)


def _tensor(stated: dict[str, Any], tensors: bytes) -> np.ndarray:
    begin, end = stated["data_offsets"]
    dtype = {"F32": np.float32, "F64": np.float64, "I64": np.int64}[stated["dtype"]]
    return np.frombuffer(tensors[begin:end], dtype).reshape(stated["shape"])


def _use_model(path: Path) -> None:
    model = load(path, activations={"square": (lambda z: z**2, lambda z: 2 * z)})
    if isinstance(model, Network):
        model.predict(np.zeros((2, model.layer_sizes[0])))
    elif hasattr(model, "get_params"):
        model.predict(np.zeros((2, model.n_features_in_)))
    else:
        model.predict({column.name: list(VALUES[column.kind]) for column in model.inputs.columns})


VALUES: dict[str, Sequence[Any]] = {
    "number": (0.0, 1.0),
    "bool": (True, False),
    "date": (np.datetime64("2024-02-29T12:00:00"), np.datetime64("1969-12-31")),
    "text": ("x", "a text that is not known"),
}
"""Of a column of each kind, what is predicted from."""


# Checkpoints

CONFIGURATION = {"hidden": "4", "seed": 0}


def _run(way: str) -> tuple[Network, Loader, dict[str, Any]]:
    x = np.linspace(-1, 1, 60).reshape(20, 3)
    optimizer = {"a": "adam", "b": "momentum", "c": "lbfgs"}[way]
    loader = Loader(x, np.sin(x[:, :1]), batch_size="full" if way == "c" else 4)
    options = {"optimizer": optimizer, "max_epochs": 6, "schedule": "cosine", "patience": 3, "keep": "best"}
    return Network((3, 4, 1)), loader, options


def _checkpoints(folder: Path) -> list[bytes]:
    found = []
    for way in "abc":
        for every in ("3steps", "1epoch"):
            if way == "c" and every == "3steps":
                continue
            network, loader, options = _run(way)
            place = folder / f"{way}-{every}"
            with Checkpoints(
                place, every, configuration={**CONFIGURATION, "way": way}, data="d"
            ) as checkpoints:
                for epoch in train(network, loader, checkpoints=checkpoints, **options):
                    if epoch.number == 3:
                        break
                found.append(checkpoints.paths()[0].read_bytes())
    return found


def _damaged_checkpoint(random: Any, content: bytes, others: list[bytes]) -> bytes:
    if random.random() < 0.2:
        return mutations.damaged(random, content, others)
    header, tensors = mutations.safetensors_parts(content)
    metadata = header["__metadata__"]
    document = json.loads(metadata["mlp_xp_checkpoint"])
    whole = {name: _tensor(each, tensors) for name, each in header.items() if name != "__metadata__"}
    if random.random() < 0.7:
        what = random.choice((document, document["numbers"], document["numbers"]))
        if what is document:
            document = mutations.changed_json(random, document)
        else:
            document["numbers"] = mutations.changed_json(random, what)
    else:
        name = random.choice(sorted(whole))
        changed = random.choice(
            (
                None,
                whole[name][:-1],
                np.concatenate([whole[name].reshape(-1)] * 2),
                whole[name].astype(np.float32),
                whole[name].astype(np.int64),
                np.full_like(whole[name], 7 if whole[name].dtype.kind == "i" else np.nan),
                -whole[name],
                np.zeros((0,)),
                np.float64(3.0).reshape(()),
            )
        )
        if changed is None:
            del whole[name]
        else:
            whole[name] = changed
    text = json.dumps(document, sort_keys=True)
    sealing = {"mlp_xp_checkpoint": text, "sha256": checksum(text, whole)}
    return bytes(safetensors.numpy.save({n: np.ascontiguousarray(t) for n, t in whole.items()}, sealing))


def _use_checkpoint(path: Path) -> None:
    content = path.read_bytes()
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("checkpoint-*"):
        old.unlink()
    (folder / "checkpoint-000000003-000000000015.safetensors").write_bytes(content)
    for way in "abc":
        network, loader, options = _run(way)
        with Checkpoints(folder, configuration={**CONFIGURATION, "way": way}, data="d") as checkpoints:
            try:
                state = checkpoints.latest()
            except ValueError as error:
                if "was another one" in str(error) and way != "c":
                    continue
                raise
            for _ in train(network, loader, state=state, **options):
                pass
            return


# Records in the cache, which are found by the data beside them

TABLE = "a,b,when,what,y\n" + "".join(
    f"{i},{i * 0.5},2024-01-{1 + i % 28:02},{'xyz'[i % 3]},{i % 7}\n" for i in range(50)
)


def _open_table(path: Path, folder: Path) -> None:
    source = open_source(
        path, target="y", text="code", gaps="keep", memory_limit=0, cache_dir=folder, dtype="float32"
    )
    _read_all(source)


def _caches(folder: Path) -> list[bytes]:
    (folder / "t.csv").write_text(TABLE)
    _open_table(folder / "t.csv", folder / "cache")
    return [each.read_bytes() for each in (folder / "cache").glob("*.records")]


def _damaged_cache(random: Any, content: bytes, others: list[bytes]) -> bytes:
    if random.random() < 0.4:
        return mutations.damaged(random, content, others)
    length = int.from_bytes(content[16:24], "little")
    document = mutations.changed_json(random, json.loads(content[24 : 24 + length]))
    text = json.dumps(document).encode()
    start = content[:16] + len(text).to_bytes(8, "little") + text
    return start + bytes(-len(start) % 4096) + content[-(-(24 + length) // 4096) * 4096 :]


def _use_cache(path: Path) -> None:
    folder = path.with_suffix("")
    table, cache = folder / "t.csv", folder / "cache"
    if not table.exists():
        folder.mkdir(exist_ok=True)
        table.write_text(TABLE)
        _open_table(table, cache)
    (kept,) = cache.glob("*.records")
    kept.write_bytes(path.read_bytes())
    _open_table(table, cache)


def _read_all(source: Any) -> None:
    """All rows of a source, as training reads them."""
    if not hasattr(source, "rows"):
        for _ in source:
            pass
        return
    for start in range(0, min(source.n_rows, 100_000), 1000):
        index = np.arange(start, min(start + 1000, source.n_rows))
        x = np.empty((len(index), source.n_features), np.float32)
        y = np.empty((len(index), source.n_targets), np.float32)
        source.rows(index, x, y, np.empty(len(index), np.float32))


# Configurations of a training

WRITTEN_BY_HAND = """# by hand
data = "houses.csv"
target = ["price", "rent, net"]
hidden = [64, 32]
"learning-rate" = 1e-2
batch-size = "full"
bias = false
dropout = 0.1
'l2' = 0.5
"""


def _configurations(folder: Path) -> list[bytes]:
    model = folder / "model.safetensors"
    _say(["train", "--epochs", "1", "--quiet", "--out", str(model)])
    return [model.with_name("model.safetensors.toml").read_bytes(), WRITTEN_BY_HAND.encode()] * 2


def _say(arguments: list[str]) -> tuple[Any, list[str]]:
    """Run `mlp-xp` in this process; its exit status, and the lines that it says on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as ended:
            return ended.code, said.getvalue().splitlines()
    return None, []


def _use_configuration(path: Path) -> str:
    """Read the options, and stop before the data is read; "refused" if they were."""
    read_data, command.read_data = command.read_data, _all_options_are_read
    try:
        status, lines = _say(["train", "--config", str(path)])
    finally:
        command.read_data = read_data
    mark = "mlp-xp: error: "
    assert status == 2, (status, lines[-3:])
    assert all(line.startswith(mark) for line in lines), lines[-3:]
    return "read" if lines == [mark + READ] else "refused"


READ = "all options are read."


def _all_options_are_read(*_: Any, **__: Any) -> None:
    raise ValueError(READ)


# CSV


def _csvs(_: Path) -> list[bytes]:
    german = "a;b;y\n" + "".join(f"{i},5;{i:02}.03.2024;{i}\n" for i in range(1, 25))
    quoted = 'a,"b ""x""",y\r\n' + "".join(f'{i},"p, q\nr{i % 3}",{i % 2}\r\n' for i in range(30))
    return [
        TABLE.encode(),
        german.encode(),
        quoted.encode(),
        german.encode("utf-16"),
        b"a,y\n1,2\n2,1\n",
        ("\ufeff" + TABLE.replace(",", "\t")).encode(),
    ]


def _damaged_text(random: Any, content: bytes, others: list[bytes]) -> bytes:
    return mutations.damaged(random, content, others, mutations.TEXT)


def _use_table(path: Path) -> None:
    _read_all(open_source(path, target="y", text="code", gaps="keep", cache=False))


# Parquet and Arrow


def _columns() -> dict[str, Any]:
    import pyarrow as pa

    n = 200
    return {
        "a": pa.array([i * 0.25 for i in range(n)]),
        "i": pa.array(range(n), pa.int32()),
        "gaps": pa.array([None if i % 5 == 0 else float(i) for i in range(n)]),
        "flag": pa.array([i % 2 == 0 for i in range(n)]),
        "text": pa.array(["xyz"[i % 3] * (i % 4) for i in range(n)]),
        "coded": pa.array(["uvw"[i % 3] for i in range(n)]).dictionary_encode(),
        "when": pa.array([1_700_000_000_000_000 + i for i in range(n)], pa.timestamp("us")),
        "money": pa.array(range(n)).cast(pa.decimal128(22, 2)),
        "half": pa.array(np.arange(n, dtype=np.float16)),
        "y": pa.array([float(i % 7) for i in range(n)]),
    }


def _parquets(_: Path) -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    columns = _columns()
    found = []
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "snappy", "row_group_size": 64},
        {"compression": "zstd", "data_page_version": "2.0", "data_page_size": 256},
        {"compression": "gzip", "write_page_checksum": True},
        {"compression": "lz4", "use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"},
        {"compression": "none", "use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"},
    ):
        chosen = columns
        if options.get("column_encoding") == "BYTE_STREAM_SPLIT":
            chosen = {name: columns[name] for name in ("a", "y")}
        elif "column_encoding" in options:
            chosen = {name: columns[name].cast(pa.int64()) for name in ("i", "y")}
        stream = io.BytesIO()
        parquet.write_table(pa.table(chosen), stream, **options)
        found.append(stream.getvalue())
    return found


def _arrows(_: Path) -> list[bytes]:
    import pyarrow as pa
    from pyarrow import ipc

    table = pa.table(_columns())
    numbers = table.select(["a", "i", "half", "y"])
    found = []
    for chosen, compression, rows in (
        (table, None, 50),
        (table, "lz4", 200),
        (table, "zstd", 90),
        (numbers, None, 70),
        (numbers, "zstd", 200),
    ):
        stream = io.BytesIO()
        options = ipc.IpcWriteOptions(compression=compression)
        with ipc.new_file(stream, chosen.schema, options=options) as writer:
            writer.write_table(chosen, max_chunksize=rows)
        found.append(stream.getvalue())
    return found


def _use_arrow(path: Path) -> None:
    _read_all(open_source(path, target="y", text="code", gaps="keep", cache=False))
    _read_all(open_source(path, target="y", columns=["a", "i"], memory_limit=0, cache=False))


# NumPy's files


def _arrays() -> list[np.ndarray]:
    x = np.arange(60, dtype=np.float64).reshape(20, 3)
    return [x, x.astype(np.float32), np.asfortranarray(x), x.astype(">f4"), x.astype(np.int16), x > 3]


def _npys(_: Path) -> list[bytes]:
    return [_npy(array) for array in _arrays()]


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _damaged_npy(random: Any, content: bytes, others: list[bytes]) -> bytes:
    if random.random() < 0.4:
        return mutations.damaged(random, content, others)
    return mutations.npy_file(random, content)


def _use_npy(path: Path) -> None:
    source = open_source(path)
    source.check_finite()
    _read_all(source)


def _npzs(_: Path) -> list[bytes]:
    found = []
    for x in _arrays():
        for write in (np.savez, np.savez_compressed):
            stream = io.BytesIO()
            write(stream, x=x, y=x[:, 0], sample_weight=np.ones(len(x)))
            found.append(stream.getvalue())
    return found


def _damaged_npz(random: Any, content: bytes, others: list[bytes]) -> bytes:
    if random.random() < 0.5:
        return mutations.damaged(random, content, others)
    arrays = [_npy(array) for array in _arrays()]
    names = ["x.npy", "y.npy", "sample_weight.npy"]
    members = []
    for name in names:
        member = random.choice(arrays)
        if random.random() < 0.5:
            member = _damaged_npy(random, member, arrays)
        if random.random() < 0.1:
            name = random.choice(("../../x.npy", "/tmp/x.npy", "x", "", "y.npy", "x.npy"))
        if random.random() < 0.05:
            member += bytes(3_000_000)
        members.append((name, member))
    changed = mutations.zip_file(random, members)
    return mutations.damaged(random, changed, others) if random.random() < 0.3 else changed


ARRAYS = ("x ", "x[", "y ", "y[", "sample_weight")
"""How messages begin about an array that has a name of its own."""

LATER = ("the state has arrays of shapes", "the training loss became", "the weights became")
"""How messages begin when a run is gone on with."""

KINDS: dict[str, Kind] = {
    "model": Kind(".safetensors", _models, _damaged_model, _use_model, ("sklearn",)),
    "checkpoint": Kind(".safetensors", _checkpoints, _damaged_checkpoint, _use_checkpoint, ("scipy",), LATER),
    "cache": Kind(".records", _caches, _damaged_cache, _use_cache, ("pyarrow",)),
    "config": Kind(".toml", _configurations, _damaged_text, _use_configuration),
    "csv": Kind(".csv", _csvs, _damaged_text, _use_table, ("pyarrow",)),
    "parquet": Kind(".parquet", _parquets, mutations.damaged, _use_table, ("pyarrow",)),
    "arrow": Kind(".arrow", _arrows, mutations.damaged, _use_arrow, ("pyarrow",)),
    "npy": Kind(".npy", _npys, _damaged_npy, _use_npy, says=ARRAYS),
    "npz": Kind(".npz", _npzs, _damaged_npz, _use_npy, says=ARRAYS),
}
