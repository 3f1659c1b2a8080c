"""Who is told of every epoch: scikit-learn's callbacks (1.9) and the function given as `callback`."""

from typing import Any

from mlp_xp.network import Network

try:
    from sklearn.callback import CallbackSupportMixin as _mixin
except ModuleNotFoundError:  # scikit-learn before 1.9
    _mixin = type("NoCallbacks", (), {})

CallbackSupport: Any = _mixin
"""The base class that brings `set_callbacks`, where scikit-learn has it; else one that brings nothing."""


class Listeners:
    """Tells the callbacks of a fit of its epochs.

    Parameters
    ----------
    estimator : estimator
        Being fitted.
    network : Network
        Being trained.
    n_epochs : int
        At most.
    X, y, metadata : object
        What callbacks may ask for: the training data as given.
    """

    def __init__(
        self, estimator: Any, network: Network, n_epochs: int, X: Any, y: Any, metadata: Any
    ) -> None:
        self.estimator, self.network = estimator, network
        self.task = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.root: Any = None
        self.epoch: Any = None
        if hasattr(estimator, "_init_callback_context"):
            self.root = estimator._init_callback_context(max_subtasks=n_epochs)
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

    def end_epoch(self, progress: Any) -> bool:
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
