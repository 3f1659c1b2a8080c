"""The house's rules, read from its source: arrows point one way, and the core stays light."""

import ast
import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlp_xp

ROOT = Path(mlp_xp.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {
    "cupy",
    "matplotlib",
    "mpi4py",
    "numba",
    "onnx",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "typer",
}

# From the foundations to the roof: a room (a file or a folder) knows only floors below its own.
FLOORS = (
    ("settings", "version"),
    ("machine",),
    ("history",),
    ("rows",),
    ("activations", "dropout", "initializers", "parameters", "regularizers", "schedules"),
    ("averaging", "losses", "optimizers", "stopping"),
    ("own",),
    ("forward",),
    ("backprop",),
    ("derivatives",),
    ("network",),
    ("epoch_losses",),
    ("objective",),
    ("run",),
    ("step",),
    ("fast",),
    ("training_loop",),
    ("members",),
    ("training_settings",),
    ("training",),
    ("tables",),
    ("estimators", "report"),
    ("saved",),
    ("tuning",),
    ("in_python",),
    ("cli",),
    ("__init__",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Optional libraries that a room or file is about, and may import where it is imported itself.
ALLOWED = {
    "cli": {"rich", "typer"},
    "estimators": {"scipy", "sklearn"},
    "fast.compiled.compiler": {"numba"},
    "in_python.table_estimators": {"scipy", "sklearn"},
}


def module_of(path):
    """The dotted name of a file, the package's own left out: sources.arrays, loader."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def trees():
    """The parsed files, by module."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room_of(module):
    return module.partition(".")[0]


def imports(tree):
    """Yield (module or module.name, line, inside a function) of every import."""

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, child.lineno, inside
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: write imports in full"
                for alias in child.names:
                    yield f"{child.module}.{alias.name}", child.lineno, inside
            elif isinstance(child, ast.If) and getattr(child.test, "id", None) == "TYPE_CHECKING":
                continue  # annotations wait for nothing
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, inside or function)

    yield from walk(tree, False)


def own_imports(tree):
    """Yield (module of the package, line)."""
    for name, line, _ in imports(tree):
        package, _, rest = name.partition(".")
        if package == "mlp_xp":
            parts = rest.split(".")
            while parts and ".".join(parts) not in MODULES:
                parts.pop()
            yield ".".join(parts) or "__init__", line


def test_every_room_has_a_floor():
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= FLOOR.keys(), "a new file or folder needs a floor in this test"


def test_the_documentation_draws_these_floors():
    page = (ROOT.parent / "docs" / "house.md").read_text(encoding="utf-8")
    drawn = page.partition("```text\n")[2].partition("```")[0].splitlines()
    floors = [tuple(sorted(line.partition("#")[0].split())) for line in drawn]
    assert floors[::-1] == [tuple(sorted(rooms)) for rooms in FLOORS[:-2]]


def test_arrows_point_down():
    """Those inside functions too: a late import hides an arrow, and does not turn it."""
    wrong = [
        f"{module}, line {line}: imports {room_of(target)}"
        for module, tree in trees().items()
        for target, line in own_imports(tree)
        if room_of(target) != room_of(module) and FLOOR[room_of(target)] >= FLOOR[room_of(module)]
    ]
    assert wrong == []


def test_no_file_needs_itself():
    """Imports have no cycle, inside folders and inside functions too."""
    needs = {
        module: {target for target, _ in own_imports(tree)} - {module} for module, tree in trees().items()
    }
    done = set()
    while ready := {m for m, needed in needs.items() if m not in done and needed <= done}:
        done |= ready
    assert set(needs) - done == set()


def test_what_comes_from_outside():
    """CuPy only in cuda's room, inside functions; other optional libraries inside functions."""
    for module, tree in trees().items():
        for name, line, inside in imports(tree):
            library, where = name.partition(".")[0], f"{module}, line {line}: {name}"
            if library in ("cupy", "cupyx", "cupy_backends") or name.startswith("array_api_compat.cupy"):
                assert ("cuda" in module.split("."), inside) == (True, True), where
            if library in HEAVY - ALLOWED.get(room_of(module), set()) - ALLOWED.get(module, set()):
                assert inside, f"{where} costs every user time and must be there"


def loaded_by(code):
    """Which of the heavy libraries a fresh interpreter has after running this."""
    report = f"import json, sys\n{code}\nprint(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    run = subprocess.run(
        [sys.executable, "-c", report],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_by("import mlp_xp") == []


def test_training_imports_nothing_heavy():
    code = """
import mlp_xp
network = mlp_xp.Network((2, 3, 1))
loader = mlp_xp.Loader([[0.0, 1.0], [1.0, 2.0], [2.0, 0.0]], [1.0, 2.0, 3.0], batch_size=2)
for epoch in mlp_xp.train(network, loader, max_epochs=2):
    pass
network.predict([[0.0, 1.0]])
"""
    assert loaded_by(code) == []


PUBLIC = {"Loader", "MLPClassifier", "MLPRegressor", "Network", "load", "save", "train"}


def test_the_public_names():
    assert set(mlp_xp.__all__) >= PUBLIC
    lazy = {"MLPClassifier", "MLPRegressor"}
    for name in set(mlp_xp.__all__) - lazy:
        assert getattr(mlp_xp, name).__doc__
    assert lazy <= set(mlp_xp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Netwrok'"):
        _ = mlp_xp.Netwrok


def test_type_checkers_see_every_public_name():
    """What is imported when it is asked for, they read from a block of its own."""
    block = next(node for node in trees()["__init__"].body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen - {"Any"} == set(mlp_xp.__all__)


@pytest.mark.needs("sklearn")
def test_the_estimators_come_when_they_are_asked_for():
    assert "sklearn" in loaded_by("from mlp_xp import MLPClassifier")
    assert mlp_xp.MLPRegressor is importlib.import_module("mlp_xp.estimators").MLPRegressor


def public_definitions(node, prefix=""):
    """Yield (dotted name, node) of public classes, functions and methods."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_"):
                continue
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{prefix}{child.name}.")


def test_public_names_have_docstrings():
    assert [module for module, tree in trees().items() if not ast.get_docstring(tree)] == []
    without = [
        f"{module}.{name}"
        for module, tree in trees().items()
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]
    assert without == []


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def test_nothing_runs_code_from_data():
    found = []
    for module, tree in trees().items():
        found += [
            f"{module}, line {line}: {name}"
            for name, line, _ in imports(tree)
            if name.partition(".")[0] in FORBIDDEN_MODULES
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in FORBIDDEN_CALLS:
                found.append(f"{module}, line {node.lineno}: {node.func.id}()")
            pickles = isinstance(node, ast.keyword) and node.arg == "allow_pickle"
            if pickles and getattr(node.value, "value", None) is not False:
                found.append(f"{module}, line {node.value.lineno}: allow_pickle")
    assert found == []


def test_no_room_is_called_utils():
    """A thing without a name is not yet designed."""
    names = {name for module in MODULES for name in module.split(".")}
    assert not names & {"utils", "util", "helpers", "common", "base", "misc"}


def test_lint_and_types_are_not_suppressed():
    signs = ("# " + "noqa", "# " + "type: ignore", "# " + "mypy:", "# " + "ruff:", "TO" + "DO", "FIX" + "ME")
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert [(module, sign) for module, text in texts.items() for sign in signs if sign in text] == []
