"""MLPRegressor."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import column_or_1d

from mlp_xp import own
from mlp_xp.estimators.array_home import on_host
from mlp_xp.estimators.classifier import MLPClassifier
from mlp_xp.estimators.data import Encoded, Rows
from mlp_xp.estimators.fitting import Held, Learner
from mlp_xp.losses import LOSSES, HalfSquaredError, Link, Loss, Poisson
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.members.spread import with_spread
from mlp_xp.rows.source import Source


@dataclasses.dataclass(eq=False, repr=False, match_args=False)
class MLPRegressor(RegressorMixin, Learner):
    """A multilayer perceptron for regression, in the place of scikit-learn's.

    For one `random_state`, float64 data and "adam" or "sgd" it gives scikit-learn 1.9's loss curve, weights
    and predictions to 1e-8. Where it differs, and why: see `MLPClassifier`.

    Parameters
    ----------
    loss : str or object
        "squared_error" (half of it, reported as the mean over targets) and "poisson" (half the deviance;
        predictions are e^z) are scikit-learn's. Others are `mlp_xp.losses`: "absolute_error",
        "huber:delta=2", "pinball:quantiles=0.1/0.5/0.9" for several quantiles at once; reported as the sum
        over targets.
    others :
        As in `MLPClassifier`.

    Attributes
    ----------
    others :
        As in `MLPClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from mlp_xp import MLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor("pinball:quantiles=0.1/0.9", solver="adam", learning_rate_init=0.1, max_iter=500,
    ...                      random_state=0).fit(X, y)
    >>> model.predict(X[:5]).shape
    (5, 2)
    """

    _y_numeric = True

    loss: object = "squared_error"
    hidden_layer_sizes: object = (100,)
    activation: object = "relu"

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike = None,
        *,
        X_val: ArrayLike = None,
        y_val: ArrayLike = None,
        sample_weight_val: ArrayLike = None,
    ) -> Self:
        """Update the model with one epoch over the given rows (with "lbfgs": with a whole fit).

        Parameters
        ----------
        X, y, sample_weight : array-like
            As in `fit`.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows to score. With early_stopping=True the estimator predicts with the best weights so far,
            while training goes on from the latest.

        Returns
        -------
        self : MLPRegressor
        """
        held = Held(X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held)

    def predict(
        self, X: ArrayLike, *, return_std: bool = False, quantiles: Sequence[float] | None = None
    ) -> Any:
        """Predict the targets of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        return_std : bool
            Whether also the standard deviation over the members is given; 0 without members.
        quantiles : sequence of float in [0, 1], optional
            Which quantiles over the members are given, too.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            With several quantiles, column t · n_quantiles + q for target t, in ascending order. With
            return_std or quantiles a tuple: this, the deviations, and the quantiles (n_quantiles, …).
        """
        X, home = self._input(X, "predict")
        if not return_std and quantiles is None:
            return home.send(self._shaped(self._finite_outputs(X)))
        of_each = self._shaped(self._finite_outputs(X, members="all"))
        return tuple(map(home.send, with_spread(of_each, return_std=return_std, quantiles=quantiles)))

    def _shaped(self, output: np.ndarray) -> np.ndarray:
        return output[..., 0] if output.shape[-1] == 1 else output

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """R² of the predictions; with several quantiles, the mean D² of their pinball losses.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The input data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights.

        Returns
        -------
        float
        """
        X, _ = self._input(X, "score")
        output = self._outputs(X)
        return self._score_of_outputs(on_host(y), output, on_host(sample_weight))

    def _score_of_outputs(self, y: ArrayLike, output: np.ndarray, weight: np.ndarray | None) -> float:
        if not np.isfinite(output).all():
            return float("nan")
        quantiles = self._loss("float64").quantiles or (0.5,)
        if len(quantiles) == 1:
            return float(r2_score(y, output, sample_weight=weight))
        columns = output.reshape(len(output), -1, len(quantiles))
        return float(
            np.mean(
                [
                    d2_pinball_score(y, columns[:, :, place], sample_weight=weight, alpha=quantile)
                    for place, quantile in enumerate(quantiles)
                ]
            )
        )

    def _encode_targets(self, y: ArrayLike, dtype: str, incremental: bool) -> np.ndarray:
        """Targets as columns of numbers."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return self._encode(y, dtype)

    def _encode(self, y: ArrayLike, dtype: str) -> np.ndarray:
        encoded = np.asarray(y, dtype=dtype)
        encoded = encoded[:, None] if encoded.ndim == 1 else encoded
        loss = self._loss(dtype)
        loss.check_targets(encoded, loss.n_outputs(encoded.shape[1], None))
        return encoded

    def _encoded_source(self, source: Source, dtype: str, *, learn: bool) -> Encoded:
        """A source with targets that are numbers."""
        if not source.n_targets:
            raise ValueError("the source has no targets: name the target column as y.")
        texts = [c.name for c in source.targets if c.kind == "text"]
        if texts:
            raise ValueError(
                f"the targets {texts} are text: MLPRegressor needs numbers (MLPClassifier takes text)."
            )
        return Encoded(source, False, self._checked_targets)

    def _checked_targets(self, y: np.ndarray) -> np.ndarray:
        loss = self._loss("float64")
        loss.check_targets(y, loss.n_outputs(y.shape[1], None))
        return y

    def _decode_targets(self, encoded: np.ndarray) -> np.ndarray:
        return self._shaped(encoded)

    def _weighted(self, y: ArrayLike, weight: np.ndarray | None, incremental: bool) -> np.ndarray | None:
        return weight

    def _n_outputs(self, n_targets: int) -> int:
        return int(self._loss("float64").n_outputs(n_targets, None))

    def _stratify(self, data: Rows) -> None:
        return None

    def _out_activation(self) -> str:
        return str(self._link().as_activation)

    def _loss(self, dtype: str) -> Loss:
        """The core's loss: scikit-learn's two names mean what they mean there."""
        known = {"squared_error": HalfSquaredError(), "poisson": Poisson(deviance=True)}
        if isinstance(self.loss, str) and self.loss in known:
            return known[self.loss]
        for_numbers = {
            name: loss for name, loss in LOSSES.items() if not loss.labels and not loss.takes_two_classes
        }
        return own.resolve("loss", for_numbers, self.loss)

    def _link(self) -> Link:
        return self._loss("float64").link

    def _loss_scale(self) -> float:
        """scikit-learn reports the mean over outputs for squared error."""
        is_squared = isinstance(self.loss, str) and self.loss == "squared_error"
        return 1.0 / self.n_outputs_ if is_squared else 1.0

    def _more_problems(self) -> list[str | None]:
        return [self._unknown("loss", lambda _: self._loss("float64"))]


def _with_others(text: str, model: str) -> str:
    """A docstring with the entries of the one that has them, where it says "others"."""
    own = ("class_weight", "label_smoothing", "classes_")
    for section in ("Parameters", "Attributes"):
        found = re.search(rf"^{section}\n-+\n(.*?)\n\n", model, re.DOTALL | re.MULTILINE)
        entries = re.split(r"\n(?=\S)", found[1]) if found else []
        others = "\n".join(entry for entry in entries if not entry.startswith(own))
        text = text.replace("others :\n    As in `MLPClassifier`.", others, 1)
    return text


if MLPRegressor.__doc__ and MLPClassifier.__doc__:  # python -OO has none
    MLPRegressor.__doc__ = _with_others(*map(inspect.cleandoc, (MLPRegressor.__doc__, MLPClassifier.__doc__)))
