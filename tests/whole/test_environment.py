"""The ways to install agree with one another: pyproject.toml, its extras and environment.yml."""

import re
import tomllib
from pathlib import Path

import mlp_xp

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = (ROOT / "environment.yml").read_text()

REQUIREMENT = re.compile(r"([a-z0-9-]+)(?:\[([a-z0-9,]+)\])?(?:>=([0-9.]+))?(?:; sys_platform != '\w+')?")


def parse(requirement):
    """Split ``name[extra,extra]>=bound``, for all systems or all but one; any other spelling fails."""
    name, extras, bound = REQUIREMENT.fullmatch(requirement).groups()
    return name, tuple(extras.split(",")) if extras else (), bound


def bounds(requirements):
    """Map each name to its lower bound, with references to own extras followed."""
    found = {}
    for name, extras, bound in map(parse, requirements):
        if name == PROJECT["name"]:
            for extra in extras:
                found |= bounds(EXTRAS[extra])
        else:
            found[name] = bound
    return found


def conda_bounds():
    entries = re.findall(r"^  - (\S+)$", CONDA.partition("dependencies:")[2], re.MULTILINE)
    return {name: bound for name, _, bound in map(parse, entries)}


def test_environment_agrees_with_pyproject():
    # What conda-forge calls cupy comes with its CUDA libraries, as PyPI's two do with [ctk].
    conda = conda_bounds()
    assert conda.pop("pip") is None
    assert f">={conda.pop('python')}" == PROJECT["requires-python"]
    assert conda.pop("cupy") == bounds(EXTRAS["cuda12"])["cupy-cuda12x"]
    assert conda.pop("nccl") is not None
    requirements = [r for extra in ("all", "mpi", "test") for r in EXTRAS[extra]]
    assert conda == bounds(PROJECT["dependencies"] + requirements)


def test_environment_says_what_a_machine_without_a_gpu_leaves_out():
    assert {"numpy", "cupy", "array-api-compat", "pytest"} <= conda_bounds().keys()
    assert re.findall(r"^  - (.*)$", CONDA.partition("dependencies:")[0], re.MULTILINE) == ["conda-forge"]
    assert re.search(r"# .*leave these two lines out.*\n  - cupy.*\n  - nccl", CONDA)


def test_the_package_says_its_version():
    assert mlp_xp.__version__ == PROJECT["version"]


def test_every_requirement_has_a_lower_bound():
    every = bounds(PROJECT["dependencies"]) | bounds(r for rs in EXTRAS.values() for r in rs)
    assert all(every.values())


def test_core_is_light():
    core = {"numpy", "array-api-compat", "rich", "safetensors", "typer"}
    assert bounds(PROJECT["dependencies"]).keys() == core


def test_extras_are_as_documented():
    names = {extra: set(bounds(requirements)) for extra, requirements in EXTRAS.items()}
    assert names.pop("test") >= {"pytest", "hypothesis", "array-api-strict"}
    assert names.pop("dev") == set(bounds(EXTRAS["test"])) | {"codespell", "mypy", "pre-commit", "ruff"}
    assert names.pop("docs") == names["sklearn"] | {"furo", "myst-parser", "numpydoc", "sphinx"}
    parts = {
        "sklearn": {"scikit-learn", "scipy"},
        "files": {"pyarrow"},
        "plot": {"matplotlib"},
        "onnx": {"onnx"},
        "fast": {"numba", "scipy", "threadpoolctl"},
    }
    assert names == parts | {
        "all": set().union(*parts.values()),
        "mpi": {"mpi4py", "threadpoolctl"},
        "cuda12": {"cupy-cuda12x"},
        "cuda13": {"cupy-cuda13x"},
    }


def test_a_gpu_needs_nothing_but_its_driver():
    gpu = [parse(r) for extra in ("cuda12", "cuda13") for r in EXTRAS[extra]]
    assert [extras for _, extras, _ in gpu] == [("ctk",), ("ctk",)]
    assert len({bound for _, _, bound in gpu}) == 1
