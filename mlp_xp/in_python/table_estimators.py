"""Tables of mixed columns in scikit-learn's contract: what `fit_table` does, as `fit` and `predict`."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np

from mlp_xp.in_python.table_model import fit_table
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.settings import checks
from mlp_xp.settings.panels import END, NETWORK, TRAINING
from mlp_xp.tables.options import TrainingOptions
from mlp_xp.tables.own_tables import columns_of

try:
    import scipy.sparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import (
        Tags,
        assert_all_finite,
        check_array,
        check_consistent_length,
        check_random_state,
        column_or_1d,
    )
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

    from mlp_xp.estimators.data import weight_of_each
    from mlp_xp.estimators.targets import refuse_objects
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "TableClassifier and TableRegressor need scikit-learn: pip install 'mlp-xp[sklearn,files]'",
        name=error.name,
    ) from error

_ALSO = ("exclude", "text", "null_words", "scaling", "max_levels", "device", "memory_limit")
_NEVER = ("init", "seed")

PARAMETERS = {
    name: known
    for name, known in TrainingOptions.described().items()
    if (known.panel in (NETWORK, TRAINING, END) or name in _ALSO) and name not in _NEVER
}
"""The options of a training that an estimator has as parameters; `random_state` is its `seed`."""

DEFAULTS = {name: TrainingOptions.defaults()[name] for name in PARAMETERS} | {"random_state": 0}


Parameters: Any = dataclasses.make_dataclass(
    "Parameters",
    [(name, object, default) for name, default in DEFAULTS.items()],
    bases=(BaseEstimator,),
    eq=False,
    repr=False,
    match_args=False,
    kw_only=True,
)
"""Those as fields, from which the constructor follows: scikit-learn reads its signature."""


class TableEstimator(Parameters):
    """What both estimators of tables share."""

    _task: str
    __signature__ = inspect.signature(Parameters)  # which Python would take from __new__

    def __new__(cls, **given: Any) -> Self:
        """Say what may have been meant by a parameter that there is not."""
        for name in given.keys() - DEFAULTS.keys():
            hint = checks.did_you_mean(name, sorted(DEFAULTS))
            raise TypeError(f"{cls.__name__} has no parameter {name!r}; {hint}.")
        return super().__new__(cls)

    def __sklearn_tags__(self) -> Tags:
        """Gaps and texts may stand in X."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def _columns(self, x: ArrayLike, *, reset: bool) -> dict[str, Any]:
        """The columns of X by name; those of `fit`, unless they are new."""
        columns = None if scipy.sparse.issparse(x) else columns_of(x)
        if columns is None:
            x = check_array(
                x,
                dtype=None,
                ensure_all_finite="allow-nan",
                ensure_min_samples=2 if reset else 1,
                estimator=self,
                input_name="X",
            )
            columns = {f"x{at}": x[:, at] for at in range(x.shape[1])}
        elif isinstance(x, Mapping | list | tuple):
            x = _names_alone(columns)
        validate_data(self, x, skip_check_array=True, reset=reset)
        return columns

    def _fit(
        self,
        columns: dict[str, Any],
        y: np.ndarray,
        name: str,
        sample_weight: ArrayLike,
        levels: Sequence[str] | None = None,
    ) -> Self:
        """Fit to targets (n_rows, n_targets): numbers, or those of classes."""
        check_consistent_length(*columns.values(), y)
        taken = set(columns)
        n_targets = y.shape[1]
        targets = [_unused(name if n_targets == 1 else f"{name}{at}", taken) for at in range(n_targets)]
        table = columns | dict(zip(targets, y.T, strict=True))
        options = {each: getattr(self, each) for each in PARAMETERS}
        if sample_weight is not None:
            options["weight_column"] = _unused("weight", taken | set(targets))
            weight = _check_sample_weight(sample_weight, y, dtype=float)
            table[options["weight_column"]] = weight
        seed = self.random_state
        options["seed"] = seed if isinstance(seed, Integral) else check_random_state(seed).randint(2**31 - 1)
        if not isinstance(self.class_weight, str):  # then it is part of the rows' weights
            del options["class_weight"]
        given = {each: value for each, value in options.items() if value is not DEFAULTS.get(each)}
        self.model_ = fit_table(table, targets, task=self._task, levels=levels, **given)
        self.n_iter_ = self.model_.training["epochs"]
        return self


def _names_alone(columns: Mapping[str, Any]) -> Any:
    """A table without rows, whose names scikit-learn finds."""
    import pyarrow as pa  # as for any table in memory that is fitted

    return pa.table({name: pa.nulls(0) for name in columns})


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


class TableRegressor(RegressorMixin, TableEstimator):
    """A network for a table of mixed columns, with the recipe of `mlp-xp train`.

    X is a table of pandas, polars or Arrow, whose columns may be numbers, texts, categories, booleans or
    dates and have gaps; or an array. What `fit_table` makes of it with the same options, this class makes. It
    computes in float32, where a prediction may differ by some 1e-6 of itself with the rows that are predicted
    beside it; ``dtype="float64"`` takes some 1.7 times as long.

    Parameters
    ----------
    random_state : int, RandomState or None
        Of held-out part, starting weights, order and dropout; None draws one.
    **parameters
        Options of `mlp-xp train`, with underscores in their names; `mlp-xp train --help` explains them.
        None leaves a choice to the recipe.

    Attributes
    ----------
    model_ : TableModel
        Saves, exports and explains itself.
    n_iter_ : int
        Epochs made.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> x = [[number / 50] for number in range(200)]
    >>> y = [3 * each + 1 for (each,) in x]
    >>> TableRegressor(epochs=40).fit(x, y).score(x, y) > 0.95
    True
    """

    _task = "regression"

    def __sklearn_tags__(self) -> Tags:
        """Several targets may be given."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> Self:
        """Fit to a table (n_rows, n_columns) and targets (n_rows,) or (n_rows, n_targets).

        Raises
        ------
        ValueError, TypeError
            Data or parameters cannot be used; the message says why.
        """
        columns = self._columns(X, reset=True)
        try:
            values = check_array(_present(self, y), ensure_2d=False, dtype="numeric", input_name="y")
        except ValueError as error:
            if "string" not in str(error):
                raise
            raise ValueError(
                "y holds texts, where numbers are needed: TableClassifier predicts classes."
            ) from error
        self._n_dim = values.ndim
        return self._fit(columns, values.reshape(len(values), -1), _name_of(y, "target"), sample_weight)

    def predict(
        self, X: ArrayLike, *, return_std: bool = False, quantiles: Sequence[float] | None = None
    ) -> Any:
        """Targets (n_rows,), or (n_rows, n_targets) where fit had two dimensions.

        With `return_std` or `quantiles` a tuple: these, and how far members (``members=``, ``folds=``)
        differ, as `TableModel.predict` says it.
        """
        check_is_fitted(self)
        columns = self._columns(X, reset=False)
        found = self.model_.predict(columns, return_std=return_std, quantiles=quantiles)
        if self._n_dim > 1 or len(self.model_.output_names) > 1:
            return found
        return tuple(each[..., 0] for each in found) if type(found) is tuple else found[..., 0]


class TableClassifier(ClassifierMixin, TableEstimator):
    """A classifier for a table of mixed columns, with the recipe of `mlp-xp train`.

    As `TableRegressor`; y holds two or more classes, of any type.

    Parameters
    ----------
    random_state : int, RandomState or None
        Of held-out part, starting weights, order and dropout; None draws one.
    class_weight : dict, "balanced" or "none"
        A dict names the weight of each class, a factor on the weights of its rows: training and metrics
        heed it, as they do `sample_weight`. With "balanced" the recipe learns from the rows as they are, and
        says in the end what holds for classes of one frequency: for a rare class that is the better way.
    **parameters
        Options of `mlp-xp train`, with underscores in their names; `mlp-xp train --help` explains them.
        None leaves a choice to the recipe.

    Attributes
    ----------
    classes_ : array (n_classes,)
        In the order of `predict_proba`'s columns.
    model_, n_iter_, n_features_in_, feature_names_in_
        As in `TableRegressor`.

    Examples
    --------
    >>> x = [[number / 50] for number in range(200)]
    >>> y = ["low" if each < 2 else "high" for (each,) in x]
    >>> TableClassifier(epochs=40).fit(x, y).score(x, y) > 0.9
    True
    """

    _task = "classification"

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> Self:
        """Fit to a table (n_rows, n_columns) and classes (n_rows,).

        Raises
        ------
        ValueError, TypeError
            Data or parameters cannot be used; the message says why.
        """
        columns = self._columns(X, reset=True)
        values = column_or_1d(_present(self, y), warn=True)
        refuse_objects(values)
        assert_all_finite(values, input_name="y")
        check_classification_targets(values)
        self.classes_, codes = np.unique(values, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"TableClassifier needs samples of at least two classes; y has one class: "
                f"{self.classes_.tolist()[0]!r}."
            )
        if isinstance(self.class_weight, dict):
            weight = weight_of_each(self.classes_, self.class_weight)[codes]
            sample_weight = weight * _check_sample_weight(sample_weight, codes, dtype=float)
        levels = [str(each) for each in self.classes_]
        return self._fit(columns, codes[:, None], _name_of(y, "class"), sample_weight, levels)

    def predict_proba(self, X: ArrayLike, *, return_std: bool = False) -> Any:
        """Probabilities (n_rows, n_classes); with `return_std` also how far members differ."""
        check_is_fitted(self)
        return self.model_.predict_proba(self._columns(X, reset=False), return_std=return_std)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The likeliest class of each row (n_rows,)."""
        chosen = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[chosen]


def _present(estimator: BaseEstimator, y: ArrayLike) -> Any:
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None.")
    return y


def _name_of(y: ArrayLike, otherwise: str) -> str:
    """The name of a column of a table; that of an array is made up."""
    name = getattr(y, "name", None)
    return name if isinstance(name, str) and name else otherwise
