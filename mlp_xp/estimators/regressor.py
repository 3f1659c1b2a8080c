"""MLPRegressor."""

import dataclasses
import inspect
import re
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from sklearn.base import RegressorMixin

from mlp_xp import own
from mlp_xp.estimators.array_home import on_host
from mlp_xp.estimators.classifier import MLPClassifier
from mlp_xp.estimators.data import Encoded
from mlp_xp.estimators.fitting import Learner
from mlp_xp.estimators.parameters import COUNT, allowed
from mlp_xp.estimators.targets import Numbers
from mlp_xp.losses import LOSSES, HalfSquaredError, Poisson
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.members.given import shared
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
    hidden_layer_sizes: object = field(default=(100,), metadata=allowed("array-like", COUNT))
    activation: object = "relu"

    def predict(
        self, X: ArrayLike, *, return_std: bool = False, quantiles: Sequence[float] | None = None
    ) -> Any:
        """Targets of rows, (n_rows,) or (n_rows, n_outputs).

        With several quantiles of a pinball loss, column t · n_quantiles + q is for target t, in ascending
        order. With `return_std` or `quantiles` a tuple: these, and over the members the standard deviations,
        0 without members, and the quantiles (n_quantiles, …).
        """
        X, home = self._input(X, "predict")
        if not return_std and quantiles is None:
            return home.send(self._targets.decode(self._finite_outputs(X)))
        of_each = self._targets.decode(self._finite_outputs(X, members="all"))
        return tuple(map(home.send, with_spread(of_each, return_std=return_std, quantiles=quantiles)))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike = None) -> float:
        """R² of the predictions; with several quantiles, the mean D² of their pinball losses."""
        X, _ = self._input(X, "score")
        return self._targets.score(on_host(y), self._outputs(X), on_host(sample_weight))

    @property
    def _targets(self) -> Numbers:
        """scikit-learn's two names of losses mean what they mean there."""
        if isinstance(self.loss, str) and self.loss in OF_SKLEARN:
            return OF_SKLEARN[self.loss]
        for_numbers = {
            name: loss for name, loss in LOSSES.items() if not loss.labels and not loss.takes_two_classes
        }
        return Numbers(shared("loss", own.resolve("loss", for_numbers, self.loss)))

    def _encoded_source(self, source: Source, *, learn: bool) -> Source:
        """A source with targets that are numbers."""
        if not source.n_targets:
            raise ValueError("the source has no targets: name the target column as y.")
        texts = [c.name for c in source.targets if c.kind == "text"]
        if texts:
            raise ValueError(
                f"the targets {texts} are text: MLPRegressor needs numbers (MLPClassifier takes text)."
            )
        targets = self._targets
        return Encoded(source, False, lambda y: targets.encode(y, "float64"))

    def _problems(self) -> list[str | None]:
        found = self._unknown("loss", lambda _: self._targets)
        if found and isinstance(self.loss, int | list | tuple):
            found += f" Layers have a name of their own: hidden_layer_sizes={self.loss!r}."
        return [*super()._problems(), found]


OF_SKLEARN = {
    "squared_error": Numbers(HalfSquaredError(), takes_mean=True),
    "poisson": Numbers(Poisson(deviance=True)),
}


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
