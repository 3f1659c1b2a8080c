"""Real data to start with: diabetes ships with the package, the others come with scikit-learn.

diabetes       442 × 10    regression: disease progression one year on
linnerud        20 × 3     regression, three outputs
iris           150 × 4     three classes
wine           178 × 13    three classes
breast_cancer  569 × 30    two classes
digits       1,797 × 64    ten classes
"""

import dataclasses
import importlib.resources

import numpy as np

from mlp_xp.settings import checks

DATASETS = ("diabetes", "linnerud", "iris", "wine", "breast_cancer", "digits")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A table in memory; with levels, the names of classes, y (n_rows, n_targets) holds their numbers."""

    x: np.ndarray
    y: np.ndarray
    feature_names: list[str]
    target_names: list[str]
    levels: list[str] | None


def load_dataset(name: str) -> Dataset:
    """One of `DATASETS`.

    Diabetes is the raw table of Efron, Hastie, Johnstone and Tibshirani, Least angle regression, Annals of
    Statistics 32, 2004: age, sex, body mass index, blood pressure, six serum values, progression.

    Raises ValueError: the name is not known; ModuleNotFoundError: the set comes with scikit-learn, which is
    not installed.
    """
    checks.refuse([checks.one_of("dataset", name, DATASETS)])
    if name == "diabetes":
        return _diabetes()
    try:
        import sklearn.datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'the dataset {name!r} comes with scikit-learn: pip install "mlp-xp[sklearn]"', name=error.name
        ) from error
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    y = np.asarray(bunch.target)
    is_regression = name == "linnerud"
    return Dataset(
        x=np.asarray(bunch.data, dtype=float),
        y=y if y.ndim == 2 else y[:, None],
        feature_names=[str(feature) for feature in bunch.feature_names],
        target_names=[str(target) for target in bunch.target_names] if is_regression else ["class"],
        levels=None if is_regression else [str(level) for level in bunch.target_names],
    )


def _diabetes() -> Dataset:
    file = importlib.resources.files("mlp_xp.tables.datasets") / "diabetes.csv"
    lines = file.read_text(encoding="ascii").splitlines()
    names = lines[0].split(",")
    values = np.loadtxt(lines[1:], delimiter=",", ndmin=2)
    return Dataset(values[:, :-1], values[:, -1:], names[:-1], names[-1:], None)
