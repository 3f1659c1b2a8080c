"""fit and partial_fit: from data and parameters to a trained network."""

import contextlib
import copy
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight, validate_data

from mlp_xp.dropout import resolve_dropout
from mlp_xp.estimators.array_home import HOST, device_for, home_of, on_host, seen_by_host, stays
from mlp_xp.estimators.data import InMemory, Rows, Streamed, is_streamed, names_of, source_given
from mlp_xp.estimators.drawing import DrawnOrder, draw_validation, draw_weights, set_weights
from mlp_xp.estimators.numeric import refuse_dates, refuse_texts
from mlp_xp.estimators.parameters import hidden_activations
from mlp_xp.estimators.perceptron import Perceptron
from mlp_xp.estimators.saved import HISTORY
from mlp_xp.estimators.training import Continuation, FitMonitor, Listeners, Together, Validation, epoch_loss
from mlp_xp.history import History
from mlp_xp.machine import blas
from mlp_xp.machine.array_api import Array, ArrayLike, to_host
from mlp_xp.machine.data_parallel import Ranks, world
from mlp_xp.members.given import dropout_of
from mlp_xp.members.step import MemberObjective
from mlp_xp.network import Network, seeds_of
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS, Optimizer
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.source import Source, Subset, passes, refuse_weights
from mlp_xp.run.agreement import refuse_differences
from mlp_xp.run.full_batch import Search
from mlp_xp.run.rates import Rates
from mlp_xp.run.state import Training
from mlp_xp.run.validation import mean_loss
from mlp_xp.schedules import Constant
from mlp_xp.settings.precision import LOOKED_AT, warn_if_coarse
from mlp_xp.training_loop import Descent, run

OF_SKLEARN = 5
"""Frames from `Fit._descend` up to scikit-learn's wrapper of `fit`: warnings seem to come from there, so that
filters that people have (``module="sklearn"``) match."""


Method = TypeVar("Method", bound=Callable[..., Any])

checked: Callable[[Method], Method] = _fit_context(prefer_skip_nested_validation=True)
"""scikit-learn's check of parameters; a method keeps its type, which editors show."""

_OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")
"""What scikit-learn needs after a fit, also after one that failed."""


class Given(NamedTuple):
    """Rows as the user gave them, to train on or to validate."""

    X: ArrayLike
    y: ArrayLike
    sample_weight: ArrayLike


class Start(NamedTuple):
    """Weights and biases that a user gave to start from."""

    weights: Sequence[ArrayLike] | None = None
    biases: Sequence[ArrayLike] | None = None


class Fit:
    """One call of fit or partial_fit: it sets attributes of the estimator, and changes none of their objects.

    `first` is whether it starts from nothing; `going_on` whether from all that the last one knew, rather than
    its weights. `ranks` are the processes that fit together.
    """

    def __init__(self, estimator: Perceptron, X: ArrayLike, *, incremental: bool) -> None:
        self.estimator, self.incremental = estimator, incremental
        self.first = not hasattr(estimator, "coefs_") or (not estimator.warm_start and not incremental)
        self.keeps = incremental or estimator._goes_on()
        self.going_on = not self.first and self.keeps
        self.ranks: Ranks | None = world() if is_streamed(X) else None
        self.rule = estimator._rule()

    def run(self, rows: Given, held: Given, start: Start) -> None:
        """From data to a trained network."""
        estimator = self.estimator
        sizes = estimator._hidden_sizes()
        if start.biases is not None and start.weights is None:
            raise ValueError("intercept_init goes with coef_init: give both, or neither.")
        data, validation = self._data(rows), self._held(held, rows)
        self.random_state = self._generator()
        estimator.n_outputs_ = estimator._targets.n_outputs(data.source.n_targets)
        layer_sizes = [estimator.n_features_in_, *sizes, estimator.n_outputs_]
        if self.first:
            network = self._new_network(layer_sizes, draws=start.weights is None)
        else:
            network = self._network_again(layer_sizes)
        if start.weights is not None:
            set_weights(network.parameters, start.weights, start.biases)
        if self.ranks is not None:
            sources = {"rows": data.source, "validation rows": validation.source if validation else None}
            refuse_differences(self.ranks, network, sources, estimator.get_params())
            self.ranks.broadcast(network.parameters.flat, network.backend)
        metadata = None if rows.sample_weight is None else {"sample_weight": rows.sample_weight}
        self.listeners = Listeners(estimator, network, rows.X, rows.y, metadata)
        self.listeners.begin()
        search = self.rule.search
        if search is None:
            self._descend(network, data, validation, rows.X if isinstance(rows.X, Loader) else None)
        else:
            self._search(search, network, data, validation)
        if not network.parameters.are_finite():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and "
                "need to be preprocessed."
            )
        estimator._publish(network)
        self.listeners.end()

    def _source(self, given: Given, weight_name: str) -> Source | None:
        """The source that is given, None for data."""
        labels = not self.estimator._y_numeric
        source = source_given(given.X, given.y, self.estimator.dtype, labels=labels)
        if source is not None and given.sample_weight is not None:
            raise TypeError(f"a path, a source or a loader brings its own weights: leave {weight_name} out.")
        return source

    def _data(self, rows: Given) -> Rows:
        """The rows, checked."""
        estimator = self.estimator
        with contextlib.nullcontext() if self.ranks is None else self.ranks.lowest_first():
            source = self._source(rows, "sample_weight")
        home = home_of(rows.X) if source is None else HOST
        if not self.first and home != estimator._home():
            raise ValueError(
                f"this estimator was fitted with arrays of {estimator._home()}, but X is of {home}: go on "
                "with the same library and device."
            )
        if self.first:
            estimator.device_ = device_for(rows.X if source is None else None, estimator.device)
        if source is None:
            data: Rows = self._checked(rows)
        elif self.incremental:
            raise TypeError(
                "partial_fit takes arrays: an epoch over a path, a source or a loader is fit with "
                "warm_start='continue' and max_iter=1."
            )
        else:
            data = self._opened(source)
        if self.first:
            estimator._home_marker = home.send(np.empty(0, dtype=self.dtype))
        return data

    def _checked(self, rows: Given) -> InMemory:
        """Rows of arrays."""
        estimator = self.estimator
        X, y, weight = self._validated(rows, reset=self.first, warn=True)
        self._decide_dtype("float32" if X.dtype == (home_of(X).xp or np).float32 else "float64")
        if self.dtype == "float32" and self.first and isinstance(X, np.ndarray):
            warn_if_coarse("X", X, vars(estimator).get("feature_names_in_"))
            if estimator._y_numeric:
                warn_if_coarse("y", np.reshape(y, (len(y), -1)))
        estimator._learn(y, incremental=self.incremental)
        encoded = estimator._targets.encode(y, self.dtype)
        return InMemory(X, encoded, estimator._weighted(y, weight, incremental=self.incremental), weight)

    def _decide_dtype(self, found: str) -> None:
        """What to compute in: what is asked for, else what rows have; later what the network has."""
        estimator = self.estimator
        self.dtype = (estimator.dtype or found) if self.first else estimator._network_now().backend.dtype_name

    def _validated(
        self, given: Given, *, reset: bool, warn: bool
    ) -> tuple[ArrayLike, Array, np.ndarray | None]:
        """Rows as scikit-learn checks them, on the host but for an X that stays where it is."""
        estimator, (X, y, weight), stay = self.estimator, given, stays(given.X)
        refuse_dates("X", X)
        refuse_texts(X, numeric=estimator._y_numeric)
        if estimator._y_numeric:
            refuse_dates("y", y)
        checked, y = validate_data(
            estimator,
            seen_by_host(X) if stay else on_host(X),
            on_host(y),
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=estimator._y_numeric,
            dtype=None if stay else (np.float64, np.float32),
            # Rows that lie in one piece are gathered 5 to 10 times as fast, in every epoch.
            order=None if stay else "C",
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=warn)
        if weight is not None:
            weight = _check_sample_weight(on_host(weight), y)
            refuse_weights(weight)
        return (X if stay else checked), y, weight

    def _opened(self, source: Source) -> Streamed:
        """Rows of a source."""
        estimator = self.estimator
        self._check_columns(source, reset=self.first)
        self._decide_dtype(source.dtype)
        encoded = estimator._encoded_source(source, learn=True)
        if self.dtype == "float32" and self.first:
            _, x, y, _ = next(passes(source, LOOKED_AT))
            warn_if_coarse("X", x, names_of(source.columns))
            if estimator._y_numeric:
                warn_if_coarse("y", y)
        return Streamed(encoded)

    def _check_columns(self, source: Source, *, reset: bool) -> None:
        """Learn the number and names of features, or check that they are those of the last fit."""
        estimator, names = self.estimator, names_of(source.columns)
        if reset:
            estimator.n_features_in_ = source.n_features
            estimator.__dict__.pop("feature_names_in_", None)
            if names is not None:
                estimator.feature_names_in_ = np.array(names, dtype=object)
            return
        known = vars(estimator).get("feature_names_in_")
        if source.n_features != estimator.n_features_in_ or (
            names is not None and known is not None and names != list(known)
        ):
            raise ValueError(
                f"the source has {source.n_features} features{'' if names is None else f' {names}'}, but "
                f"{type(estimator).__name__} was fitted with {estimator.n_features_in_}"
                f"{'' if known is None else f' {list(known)}'}."
            )

    def _held(self, held: Given, rows: Given) -> Rows | None:
        """The user's own validation rows, whose target has the name that it has among the others."""
        if all(each is None for each in held):
            return None
        if held.y is None and all(isinstance(each.X, str | os.PathLike) for each in (held, rows)):
            held = held._replace(y=rows.y)
        source = self._source(held, "sample_weight_val")
        if source is not None:
            self._check_columns(source, reset=False)
            return Streamed(self.estimator._encoded_source(source, learn=False))
        if held.X is None or held.y is None:
            raise ValueError("X_val and y_val go together, sample_weight_val with them: give both or none.")
        X, y, weight = self._validated(held, reset=False, warn=False)
        return InMemory(X, self.estimator._targets.encode(y, self.dtype), weight)

    def _generator(self) -> np.random.RandomState:
        """What to draw from: where it is left to chance, the same on all ranks."""
        given = self.estimator.random_state
        if self.ranks is not None and given is None:
            given = int(self.ranks.from_first(float(np.random.default_rng().integers(2**31))))
        return check_random_state(given)

    def _new_network(self, layer_sizes: list[int], *, draws: bool) -> Network:
        """A network with new weights, or zeros, of an estimator that forgets what it knew."""
        estimator, named = self.estimator, self.estimator.initializer
        hidden = hidden_activations(estimator.activation, len(layer_sizes) - 2)
        network = Network(
            layer_sizes,
            activation=hidden,
            initializer=named if draws and named is not None else "zeros",
            device=estimator.device_,
            dtype=self.dtype,
            seed=int(self.random_state.randint(2**31)) if draws and named is not None else 0,
            members=estimator.members,
        )
        for parameters in network.parameters.each() if draws and named is None else ():
            drawn_by = hidden or hidden_activations(estimator.activation)
            set_weights(parameters, *draw_weights(self.random_state, layer_sizes, drawn_by))
        network.output = estimator._targets.loss("float64").link
        estimator.n_iter_ = estimator.t_ = 0
        estimator.n_layers_, estimator.out_activation_ = len(layer_sizes), estimator._targets.out_activation
        for name in ("_training", *HISTORY):
            estimator.__dict__.pop(name, None)
        return network

    def _network_again(self, layer_sizes: list[int]) -> Network:
        """A copy of the network as it is."""
        known = self.estimator._network_now()
        if known.members != self.estimator.members:
            raise ValueError(
                f"warm_start and partial_fit go on with a network of members={known.members!r}, not of "
                f"members={self.estimator.members!r}."
            )
        if list(known.layer_sizes) != layer_sizes:
            raise ValueError(
                f"warm_start and partial_fit go on with a network of layer sizes {known.layer_sizes}, but "
                f"these data and hidden_layer_sizes need {tuple(layer_sizes)}."
            )
        known.backend.runtime.select()
        parameters = known.parameters.zeros_like()
        parameters.flat[...] = known.parameters.flat
        return known.with_parameters(parameters)

    def _descend(self, network: Network, data: Rows, validation: Rows | None, given: Loader | None) -> None:
        """Train step by step."""
        estimator, past, source = self.estimator, self._past(network), data.source
        if validation is None and estimator.early_stopping:
            past.split = self._split(past, data)
            source, validation = Subset(source, past.split[0]), data.held_out(past.split[1])
        loader = self._loader(past, data, source, given, network)
        self._start_history(validated=validation is not None)
        loss, penalty = estimator._targets.loss(self.dtype), estimator._regularizer()
        objective_of, descent = (
            (Objective, Descent) if network.members is None else (MemberObjective, Together)
        )
        objective = objective_of(network, loss, penalty, past.dropout, ranks=self.ranks)
        past.rates.history.steps_per_epoch, past.rates.history.seconds = loader.steps_per_epoch, 0.0
        loss_of = functools.partial(
            epoch_loss, loader=loader, scale=estimator._targets.loss_scale(estimator.n_outputs_)
        )
        method = descent(clip_norm=estimator.clip_norm, loss_of=loss_of)
        training = Training(objective, loader, past.optimizer(network.parameters), past.rates, method)
        monitor = FitMonitor(estimator, training, self._validation(network, validation))
        monitor.found_best = self.first or self.going_on  # so far it is where this call began
        if past.latest is not None:
            network.parameters.flat[...] = network.parameters.backend.asarray(to_host(past.latest))
        n_epochs = 1 if self.incremental else estimator.max_iter
        estimator.stopped_ = self._epochs(training, monitor, n_epochs)
        if estimator.stopped_ is None and not self.incremental:
            estimator.stopped_ = f"reached {n_epochs} epochs"
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({n_epochs}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=OF_SKLEARN,
            )
        past.t, past.state, past.latest = training.optimizer.t, training.optimizer.state, None
        if monitor.is_early and monitor.found_best:
            past.latest = training.copied() if self.keeps else None
            network.parameters.flat[...] = training.best
        if not estimator._goes_on():
            past.order = past.seed = past.split = None
        estimator._training = past

    def _past(self, network: Network) -> Continuation:
        """What this call goes on from."""
        estimator, known = self.estimator, vars(self.estimator).get("_training")
        if known is not None and self.going_on:
            return known.copied()
        history = History(max_epochs=estimator.max_iter)
        rates = Rates(float(estimator.learning_rate_init), estimator._schedule(), history)
        # Nothing is drawn without dropout, so that the order is scikit-learn's.
        seed = int(self.random_state.randint(2**31)) if np.any(estimator.dropout) else 0
        n_hidden, seeds = network.n_layers - 1, seeds_of(seed, network.members)
        masks = [resolve_dropout(estimator.dropout, n_hidden, each) for each in seeds]
        dropout = masks[0] if network.members is None else dropout_of(masks, n_hidden, seeds)
        return Continuation(self.rule, rates, dropout)

    def _split(self, past: Continuation, data: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The rows to train on, and those to hold out."""
        estimator, source = self.estimator, data.source
        if self.incremental or source.order is not None:
            what = "partial_fit" if self.incremental else "a stream of batches"
            raise ValueError(
                f"{what} does not support early_stopping=True without validation data: give it X_val and "
                "y_val."
            )
        if past.split is not None and sum(map(len, past.split)) == source.n_rows:
            return past.split
        strata = estimator._targets.strata(data.y) if isinstance(data, InMemory) else None
        return draw_validation(self.random_state, source.n_rows, estimator.validation_fraction, strata)

    def _loader(
        self, past: Continuation, data: Rows, source: Source, given: Loader | None, network: Network
    ) -> Loader:
        """What gives the training rows in scikit-learn's order, or streamed ones in the core's."""
        estimator, n_rows = self.estimator, source.n_rows
        if given is None and not isinstance(estimator.batch_size, str) and estimator.batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
                stacklevel=OF_SKLEARN + 1,
            )
        batch = estimator._batch_rows(n_rows) if given is None else min(given.batch_size, n_rows)
        if isinstance(data, InMemory) and given is None:
            if past.order is None or past.order.n_rows != n_rows or self.incremental:
                past.order = DrawnOrder(self.random_state, n_rows, bool(estimator.shuffle))
            # From memory that is 2 to 10% of the time: beside a CPU that computes a thread costs more.
            ahead = "auto" if network.backend.runtime.overlaps else data.prefetch
            loader = Loader(source, batch_size=batch, prefetch=ahead)
            loader.order = past.order  # not as an argument, which is tried out: it would draw twice
            return loader
        if past.seed is None:
            past.seed = int(self.random_state.randint(2**31)) if given is None else given.seed
        order = None if estimator.shuffle or source.order is not None else "sequential"
        loader = Loader(source, batch_size=batch, order=order, seed=past.seed, prefetch=data.prefetch)
        if given is not None:
            loader.order = given.order
        return loader

    def _search(self, rule: LBFGS, network: Network, data: Rows, validation: Rows | None) -> None:
        """Train by L-BFGS over all rows."""
        estimator = self.estimator
        objective = Objective(
            network, estimator._targets.loss(self.dtype), estimator._regularizer(), ranks=self.ranks
        )
        loader, rates = _whole(data), Rates(0.0, Constant(), History(max_epochs=estimator.max_iter))
        training = Training(objective, loader, Optimizer(rule, network.parameters), rates, Search(rule))
        if validation is not None:
            estimator.validation_loss_curve_, estimator.validation_scores_ = [], []
        monitor = FitMonitor(estimator, training, self._validation(network, validation))
        estimator.stopped_ = self._epochs(training, monitor, estimator.max_iter)
        estimator.n_iter_ = rates.history.step  # none, where it began at a minimum
        ended = estimator.stopped_.partition("ended: ")[2]
        if ended and "CONVERGENCE" not in ended:
            warnings.warn(
                f"lbfgs failed to converge after {estimator.n_iter_} iteration(s): {ended}\n\n"
                "Increase the number of iterations to improve the convergence "
                f"(max_iter={estimator.max_iter}). You might also want to scale the data as shown in:\n"
                "    https://scikit-learn.org/stable/modules/preprocessing.html",
                ConvergenceWarning,
                stacklevel=OF_SKLEARN,
            )
        scale, regularizer = estimator._targets.loss_scale(estimator.n_outputs_), objective.regularizer
        if scale != 1.0 or not rates.history.train_losses:
            weights = network.parameters.flat_weights
            penalty = 0.0 if regularizer is None else float(regularizer.value(network.backend, weights))
            loss = mean_loss(network, loader, objective.loss, self.ranks)
            estimator.loss_ = scale * loss + penalty / data.divisor

    def _epochs(self, training: Training, monitor: FitMonitor, n_epochs: int) -> str | None:
        """Make epochs until something says stop, and return what; None after all of them."""
        estimator, rates, listeners, stopped = self.estimator, training.rates, self.listeners, None
        estimator.n_iter_ = 0
        try:
            # To say it of each epoch alone takes as long as a quarter of a step on a few rows.
            with blas.computing(), contextlib.closing(run(training, monitor)) as epochs:
                for _ in range(n_epochs):
                    listeners.begin_epoch()
                    rates.last = rates.now()
                    epoch = next(epochs)
                    wishes = listeners.end_epoch(monitor.progress(epoch.seconds))
                    if self.ranks is not None:  # any rank's callback stops all
                        wishes = self.ranks.sum_numbers([float(wishes)])[0] > 0
                    stopped = epoch.stopped or ("stopped by a callback" if wishes else None)
                    if stopped is not None:
                        break
        except KeyboardInterrupt:
            stopped = "interrupted"
            warnings.warn("Training interrupted by user.", stacklevel=OF_SKLEARN + 1)
        return stopped

    def _start_history(self, *, validated: bool) -> None:
        """Lists and counts that epochs go on with; the lists are copied."""
        estimator, early = self.estimator, self.estimator.early_stopping
        defaults: dict[str, Any] = {
            "loss_curve_": [],
            "_no_improvement_count": 0,
            "best_loss_": None if early else np.inf,
            "validation_scores_": [] if validated else None,
            "best_validation_score_": -np.inf if early else None,
        }
        if validated:
            defaults |= {"validation_loss_curve_": []} | ({"best_validation_loss_": np.inf} if early else {})
        for name, value in defaults.items():
            known = vars(estimator).get(name)
            setattr(estimator, name, copy.copy(value if known is None else known))

    def _validation(self, network: Network, rows: Rows | None) -> Validation | None:
        """What is looked at on the rows held out."""
        return None if rows is None else Validation(_whole(rows), self._score(network, rows))

    def _score(self, network: Network, data: Rows) -> Callable[[], float]:
        """The function that scores the network of now on validation data."""
        estimator = self.estimator
        if estimator.scoring is None or estimator.scoring == "loss":
            return lambda: estimator._targets.score(*data.outputs(network))
        if not isinstance(data, InMemory):
            raise ValueError(
                f"scoring={estimator.scoring!r} needs validation rows in memory: give X_val and y_val as "
                "arrays, or scoring=None or 'loss'."
            )
        scorer = check_scoring(estimator, estimator.scoring)
        x, y = on_host(data.x), estimator._targets.decode(data.y)
        more = {} if data.weight is None else {"sample_weight": data.weight}
        return lambda: float(scorer(estimator.snapshot_of(network), x, y, **more))


def _whole(rows: Rows) -> Loader:
    """All rows at once, in the order in which they can be read."""
    return Loader(rows.source, batch_size="full", order=rows.source.order or "sequential")


class Learner(Perceptron):
    """What can be fitted: `fit` and `partial_fit`, and what both classes learn and do in their ways."""

    def _learn(self, y: ArrayLike, *, incremental: bool) -> None:
        """Learn what there is to know of targets."""

    def _encoded_source(self, source: Source, *, learn: bool) -> Source:
        """A source with targets as the core's losses read them."""
        raise NotImplementedError

    def _weighted(self, y: ArrayLike, weight: np.ndarray | None, *, incremental: bool) -> np.ndarray | None:
        """The weights of rows."""
        return weight

    @checked
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike = None,
        sample_weight: ArrayLike = None,
        *,
        X_val: ArrayLike = None,
        y_val: ArrayLike = None,
        sample_weight_val: ArrayLike = None,
        coef_init: Sequence[ArrayLike] | None = None,
        intercept_init: Sequence[ArrayLike] | None = None,
    ) -> Self:
        """Fit the model to X and y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features), path, source or Loader
            The input data; read. From a path (a table, .npy or .npz; see `tables.files.open_source`), a
            source or a `Loader` rows are gathered step by step, in the core's order, and never held as a
            whole; a Loader brings its batches and order along. Processes that mpiexec started share them out
            and fit the same model together (`mlp_xp.machine.data_parallel`); arrays are each process's own.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets of a regression; of a classification the class labels, an indicator matrix of labels, or
            several columns of class labels. With a path the name of the target column (or a list of them);
            with a source or a Loader left out.
        sample_weight : array-like of shape (n_samples,), optional
            Weights >= 0.
        X_val, y_val, sample_weight_val : array-like, optional
            Rows of your own to score after every epoch, instead of `validation_fraction`; X_val may be a
            path or a source, too.
        coef_init, intercept_init : list of arrays, optional
            Weights (and biases, else zeros) to start from, shaped like `coefs_` and `intercepts_`.

        Returns
        -------
        self : object
            After an error it is as it was before.
        """
        held, start = Given(X_val, y_val, sample_weight_val), Start(coef_init, intercept_init)
        return self._fit(Given(X, y, sample_weight), held, start)

    @checked
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

        Parameters are as in `fit`. With early_stopping=True the estimator predicts with the best weights so
        far, while training goes on from the latest.
        """
        return self._fit(Given(X, y, sample_weight), Given(X_val, y_val, sample_weight_val))

    def _fit(
        self,
        rows: Given,
        held: Given,
        start: Start | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Self:
        """Fit, or make one epoch of partial_fit where there is no start; after an error nothing has changed.

        `prepare` is done first.
        """
        before = dict(vars(self))
        try:
            if prepare is not None:
                prepare()
            Fit(self, rows.X, incremental=start is None).run(rows, held, start or Start())
        except BaseException:
            kept = {name: value for name, value in vars(self).items() if name in _OF_CALLBACKS}
            self.__dict__ = before | kept
            raise
        return self
