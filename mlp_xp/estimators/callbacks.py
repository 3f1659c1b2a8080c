"""Who is told of every epoch: scikit-learn's callbacks and the function given as `callback`."""

from typing import Any

from mlp_xp.estimators.perceptron import Perceptron
from mlp_xp.estimators.training import Progress
from mlp_xp.machine.array_api import ArrayLike
from mlp_xp.network import Network


class Listeners:
    """Tells the callbacks of a fit of its epochs; they may ask for the training data as given."""

    def __init__(
        self, estimator: Perceptron, network: Network, X: ArrayLike, y: ArrayLike, metadata: object
    ) -> None:
        self.estimator, self.network = estimator, network
        self.task = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.root: Any = None
        self.epoch: Any = None
        if hasattr(estimator, "_init_callback_context"):  # scikit-learn 1.9 has callbacks
            self.root = estimator._init_callback_context(max_subtasks=estimator.max_iter)
        self.wanted = bool(getattr(estimator, "_skl_callbacks", []))

    def _now(self) -> dict[str, Any]:
        return self.estimator._as_fitted(self.network)

    def begin(self) -> None:
        """Fit begins."""
        if self.wanted:
            self.root.call_on_fit_task_begin(**self.task)

    def begin_epoch(self) -> None:
        """An epoch begins."""
        if self.wanted:
            self.epoch = self.root.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.task)

    def end_epoch(self, progress: Progress) -> bool:
        """An epoch ends. True: stop."""
        stop = False
        if self.wanted:
            stop = self.epoch.call_on_fit_task_end(reconstruction_attributes=self._now, **self.task)
        if self.estimator.callback is not None:
            stop |= bool(self.estimator.callback(progress))
        return stop

    def end(self) -> None:
        """Fit ends."""
        if self.wanted:
            self.root.call_on_fit_task_end(reconstruction_attributes=self._now, **self.task)
