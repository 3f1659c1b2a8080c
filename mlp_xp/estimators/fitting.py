"""fit and partial_fit: from data and parameters to a trained network."""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from mlp_xp import own
from mlp_xp.dropout import resolve_dropout
from mlp_xp.estimators import parameters
from mlp_xp.estimators.array_home import HOST, device_for, home_of, on_host, seen_by_host, stays
from mlp_xp.estimators.callbacks import Listeners
from mlp_xp.estimators.data import InMemory, Streamed, is_streamed, names_of, source_given
from mlp_xp.estimators.drawing import CountedOrder, DrawnOrder, draw_validation, draw_weights
from mlp_xp.estimators.numeric import LOOKED_AT, refuse_dates, warn_if_coarse
from mlp_xp.estimators.saved import HISTORY
from mlp_xp.estimators.searching import Search
from mlp_xp.estimators.training import OF_SKLEARN, Continuation, Descent, Validation, new_rates
from mlp_xp.initializers import INITIALIZERS, Given
from mlp_xp.machine.data_parallel import Ranks, world
from mlp_xp.network import Network
from mlp_xp.objective import Objective
from mlp_xp.rows.loader import Loader
from mlp_xp.rows.order import Sequential, Shuffled
from mlp_xp.rows.source import Source, Subset, passes, refuse_weights

Rows = InMemory | Streamed
"""What an estimator is fitted to, or scored on."""


class Held(NamedTuple):
    """Validation data as the user gave them."""

    X: Any
    y: Any
    sample_weight: Any


def fit(
    e: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    held: Held,
    start: tuple[Any, Any] = (None, None),
    incremental: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Any:
    """Fit an estimator; after an error it is as it was before.

    Parameters
    ----------
    e : estimator
        To fit.
    X, y, sample_weight : array-like
        As scikit-learn has them.
    held : Held
        The user's own validation data, if any.
    start : pair of lists
        The user's own starting weights and biases, if any.
    incremental : bool
        Whether this is one epoch of partial_fit.
    prepare : callable, optional
        What to do first.

    Returns
    -------
    estimator
        `e`.
    """
    before = dict(vars(e))
    undo: list[Callable[[], None]] = []
    try:
        if prepare is not None:
            prepare()
        _fit(e, X, y, sample_weight, held, start, incremental, undo)
    except BaseException:
        kept = {name: value for name, value in vars(e).items() if name in _OF_CALLBACKS}
        for back in undo:
            back()
        vars(e).clear()
        vars(e).update(before | kept)
        raise
    return e


_OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")
"""What scikit-learn needs after a fit, also after one that failed."""


def _fit(
    e: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    held: Held,
    start: tuple[Any, Any],
    incremental: bool,
    undo: list[Callable[[], None]],
) -> None:
    first = not hasattr(e, "coefs_") or (not e.warm_start and not incremental)
    going_on = not first and (incremental or parameters.is_continue(e.warm_start))
    sizes = parameters.hidden_sizes(e)
    ranks = world() if is_streamed(X) else None
    with contextlib.nullcontext() if ranks is None else ranks.lowest_first():
        given = source_given(X, y, e.dtype, labels=not e._y_numeric)
    home = HOST if given is not None else home_of(X)
    if not first and home != e._home():
        raise ValueError(
            f"this estimator was fitted with arrays of {e._home()}, but X is of {home}: go on with the "
            "same library and device."
        )
    device = vars(e).get("device_", "cpu")
    if first:
        device = (e.device or "cpu") if given is not None else device_for(X, e.device)
    data: Rows
    if given is None:
        data, dtype = _checked(e, X, y, sample_weight, first, incremental)
    elif incremental:
        raise TypeError(
            "partial_fit takes arrays: an epoch over a path, a source or a loader is fit with "
            "warm_start='continue' and max_iter=1."
        )
    elif sample_weight is not None:
        raise TypeError("a path, a source or a loader brings its own weights: leave sample_weight out.")
    else:
        data, dtype = _opened(e, given, first)
    validation = _checked_held(e, held, y if isinstance(X, str | os.PathLike) else None, dtype)
    random_state = check_random_state(_shared(e.random_state, ranks))
    e.n_outputs_ = e._n_outputs(data.source.n_targets)
    layer_sizes = [e.n_features_in_, *map(int, sizes), e.n_outputs_]
    if first:
        e.device_, e._home_marker = device, home.send(np.empty(0, dtype=dtype))
        network = _new_network(e, layer_sizes, device, dtype, random_state, start)
        e.n_iter_, e.t_, e.n_layers_, e.out_activation_ = 0, 0, len(layer_sizes), e._out_activation()
        vars(e).pop("_training", None)
        for name in HISTORY:
            vars(e).pop(name, None)
    else:
        network = e._network_now()
        if list(network.layer_sizes) != layer_sizes:
            raise ValueError(
                f"warm_start and partial_fit go on with a network of layer sizes "
                f"{network.layer_sizes}, but these data and hidden_layer_sizes need "
                f"{tuple(layer_sizes)}."
            )
        flat = network.backend.xp.asarray(network.parameters.flat, copy=True)
        undo.append(lambda: network.parameters.flat.__setitem__(..., flat))
        if start != (None, None):
            _set(network, start)
    if ranks is not None:
        ranks.broadcast(network.parameters.flat, network.backend)
    listeners = Listeners(e, network, e.max_iter, X, y, _metadata(sample_weight))
    listeners.begin()
    if parameters.is_stochastic(e):
        visits = X if isinstance(X, Loader) else None
        _descend(
            e, network, data, validation, random_state, listeners, visits, first, going_on, incremental, undo,
            ranks,
        )  # fmt: skip
    else:
        _lbfgs(e, network, data, validation, listeners, ranks)
    if not np.isfinite(network.parameters.to_host()).all():
        raise ValueError(
            "Solver produced non-finite parameter weights. The input data may contain large values and "
            "need to be preprocessed."
        )
    e._publish(network)
    listeners.end()


def _metadata(sample_weight: Any) -> dict[str, Any] | None:
    return None if sample_weight is None else {"sample_weight": sample_weight}


def _checked(e: Any, X: Any, y: Any, sample_weight: Any, first: bool, incremental: bool) -> tuple[Rows, str]:
    """Data, and the dtype to compute in."""
    X, y = _validated(e, X, y, first)
    dtype = e.dtype or ("float32" if X.dtype == (home_of(X).xp or np).float32 else "float64")
    if not first:
        dtype = e._network_now().backend.dtype_name
    if dtype == "float32" and first and isinstance(X, np.ndarray):
        warn_if_coarse("X", X, vars(e).get("feature_names_in_"))
        if e._y_numeric:
            warn_if_coarse("y", np.reshape(y, (len(y), -1)))
    encoded = e._encode_targets(y, dtype, incremental)
    weight = None if sample_weight is None else _check_sample_weight(on_host(sample_weight), y)
    if weight is not None:
        refuse_weights(weight)
    return InMemory(X, encoded, e._weighted(y, weight, incremental)), dtype


def _validated(e: Any, X: Any, y: Any, first: bool) -> tuple[Any, Any]:
    """X and y as scikit-learn checks them, on the host but for an X that stays where it is."""
    stay = stays(X)
    refuse_dates("X", X)
    if e._y_numeric:
        refuse_dates("y", y)
    checked, y = validate_data(
        e,
        seen_by_host(X) if stay else on_host(X),
        on_host(y),
        accept_sparse=["csr", "csc"],
        multi_output=True,
        y_numeric=e._y_numeric,
        dtype=None if stay else (np.float64, np.float32),
        order="C",  # rows that lie in one piece are gathered 5 to 10 times as fast, in every epoch
        reset=first,
    )
    return (X if stay else checked), y


def _opened(e: Any, source: Source, first: bool) -> tuple[Rows, str]:
    """Rows of a source, and the dtype to compute in."""
    _check_columns(e, source, first)
    dtype = e.dtype or source.dtype
    if not first:
        dtype = e._network_now().backend.dtype_name
    encoded = e._encoded_source(source, dtype, learn=True)
    if dtype == "float32" and first:
        _, x, y, _ = next(passes(source, LOOKED_AT))
        warn_if_coarse("X", x, names_of(source.columns))
        if e._y_numeric:
            warn_if_coarse("y", y)
    return Streamed(encoded), dtype


def _check_columns(e: Any, source: Source, first: bool) -> None:
    """Learn the number and names of features, or check that they are those of the last fit."""
    names = names_of(source.columns)
    if first:
        e.n_features_in_ = source.n_features
        vars(e).pop("feature_names_in_", None)
        if names is not None:
            e.feature_names_in_ = np.array(names, dtype=object)
        return
    known = getattr(e, "feature_names_in_", None)
    if source.n_features != e.n_features_in_ or (
        names is not None and known is not None and names != list(known)
    ):
        raise ValueError(
            f"the source has {source.n_features} features{'' if names is None else f' {names}'}, but "
            f"{type(e).__name__} was fitted with {e.n_features_in_}"
            f"{'' if known is None else f' {list(known)}'}."
        )


def _checked_held(e: Any, held: Held, target: Any, dtype: str) -> Rows | None:
    if held.X is None and held.y is None:
        return None
    by_path = isinstance(held.X, str | os.PathLike)
    named = target if by_path and held.y is None else held.y
    given = source_given(held.X, named, e.dtype, labels=not e._y_numeric)
    if given is not None:
        _check_columns(e, given, False)
        return Streamed(e._encoded_source(given, dtype, learn=False))
    if held.X is None or held.y is None:
        raise ValueError("X_val and y_val go together: give both or none.")
    X, y = _validated(e, held.X, held.y, False)
    weight = None if held.sample_weight is None else _check_sample_weight(on_host(held.sample_weight), y)
    return InMemory(X, e._encode(y, dtype), weight)


def _new_network(
    e: Any,
    layer_sizes: list[int],
    device: str,
    dtype: str,
    random_state: np.random.RandomState,
    start: tuple[Any, Any],
) -> Network:
    n_hidden = len(layer_sizes) - 2
    hidden = parameters.hidden_activations(e.activation, n_hidden)
    initializer: Any = None
    seed = 0
    if start[0] is not None:
        initializer = Given(*start)
    elif e.initializer is None:
        initializer = draw_weights(
            random_state, layer_sizes, hidden or parameters.hidden_activations(e.activation)
        )
    else:
        initializer = own.resolve("initializer", INITIALIZERS, e.initializer)
        seed = int(random_state.randint(2**31))
    network = Network(
        layer_sizes,
        activation=hidden,
        initializer=initializer,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    network.output = e._link()
    return network


def _set(network: Network, start: tuple[Any, Any]) -> None:
    """Copy a user's weights into a network."""
    given, none = Given(*start), np.random.default_rng()
    for layer, weights in enumerate(network.parameters.weights):
        shape = weights.shape
        network.parameters.set_layer(
            layer, given.weights(none, layer, *shape), given.biases(none, layer, *shape)
        )


def _descend(
    e: Any,
    network: Network,
    data: Rows,
    validation: Rows | None,
    random_state: np.random.RandomState,
    listeners: Listeners,
    loader_given: Loader | None,
    first: bool,
    going_on: bool,
    incremental: bool,
    undo: list[Callable[[], None]],
    ranks: Ranks | None,
) -> None:
    """Train step by step."""
    training, keeps = vars(e).get("_training"), parameters.is_continue(e.warm_start)
    best = None
    if first or (going_on and e.early_stopping):
        best = network.backend.xp.asarray(network.parameters.flat, copy=True)
    if training is None or not going_on:
        dropout = resolve_dropout(e.dropout, network.n_layers - 1, _seed(e, random_state))
        rates = new_rates(float(e.learning_rate_init), parameters.schedule_of(e), e.max_iter)
        training = Continuation(network, parameters.rule_of(e), rates, dropout)
    else:
        training.attach(network)
        undo.append(training.undo_point())
        if training.latest is not None:
            network.parameters.flat[...] = network.backend.asarray(training.latest)
            training.latest = None
    source = data.source
    if validation is None and e.early_stopping:
        if incremental or source.order is not None:
            what = "partial_fit" if incremental else "a stream of batches"
            raise ValueError(
                f"{what} does not support early_stopping=True without validation data: give it X_val and "
                "y_val."
            )
        if training.split is None or sum(map(len, training.split)) != source.n_rows:
            training.split = draw_validation(
                random_state, source.n_rows, e.validation_fraction, e._stratify(data)
            )
        rows, rows_val = training.split
        validation = data.part(rows_val)
        source = Subset(source, rows)
    visits = None
    batch = parameters.batch_rows(e, source.n_rows)
    if loader_given is not None:
        visits, batch = loader_given.order, min(loader_given.batch_size, source.n_rows)
    elif isinstance(data, Streamed):
        visits = source.order or (Shuffled() if e.shuffle else Sequential())
    if training.order is None or training.order.n_rows != source.n_rows or incremental:
        if visits is None:
            training.order = DrawnOrder(random_state, source.n_rows, bool(e.shuffle))
        else:
            seed = int(random_state.randint(2**31)) if loader_given is None else loader_given.seed
            training.order = CountedOrder(visits, source.n_rows, seed)
    if isinstance(training.order, CountedOrder):
        training.order.visits = visits
    if loader_given is None and not isinstance(e.batch_size, str) and e.batch_size > source.n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=OF_SKLEARN,
        )
    loader = Loader(source, batch_size=batch, order=training.order, prefetch=data.prefetch)
    _start_history(e, validation is not None, undo)
    objective = Objective(
        network,
        e._loss(network.backend.dtype_name),
        parameters.regularizer_of(e),
        training.dropout,
        ranks=ranks,
    )
    watch = _watch(e, network, validation)
    descent = Descent(e, training, objective, loader, watch, e._loss_scale(), parameters.is_adaptive(e))
    if descent.early and best is not None:
        descent.best = best
    descent.run(
        1 if incremental else e.max_iter,
        listeners,
        one_call=not incremental,
        keep_latest=keeps or incremental,
    )
    e.stopped_ = descent.stopped
    if not keeps:
        training.order = training.split = None
    e._training = training


def _whole(rows: Rows) -> Loader:
    """All rows at once, in the order in which they can be read."""
    return Loader(rows.source, batch_size="full", order=rows.source.order or "sequential")


def _shared(random_state: Any, ranks: Ranks | None) -> Any:
    """What to draw from: where it is left to chance, the same on all ranks."""
    if ranks is None or random_state is not None:
        return random_state
    return int(ranks.from_first(float(np.random.default_rng().integers(2**31))))


def _seed(e: Any, random_state: np.random.RandomState) -> int:
    """Of dropout; nothing is drawn without it, so that the order is scikit-learn's."""
    return int(random_state.randint(2**31)) if np.any(e.dropout) else 0


def _start_history(e: Any, validated: bool, undo: list[Callable[[], None]]) -> None:
    """Lists and counts that epochs go on with."""
    early = e.early_stopping
    defaults: dict[str, Any] = {
        "loss_curve_": [],
        "_no_improvement_count": 0,
        "best_loss_": None if early else np.inf,
        "validation_scores_": [] if validated else None,
        "best_validation_score_": -np.inf if early else None,
    }
    if validated:
        defaults |= {"validation_loss_curve_": []}
        if early:
            defaults |= {"best_validation_loss_": np.inf}
    for name, value in defaults.items():
        known = vars(e).get(name)
        if known is None:
            setattr(e, name, value)
        elif isinstance(known, list):
            undo.append(functools.partial(known.__delitem__, slice(len(known), None)))


def _watch(e: Any, network: Network, validation: Rows | None) -> Validation | None:
    """What is watched on the rows held out."""
    if validation is None:
        return None
    return Validation(_whole(validation), _score(e, network, validation), on_loss=e.scoring == "loss")


def _score(e: Any, network: Network, data: Rows) -> Callable[[], float]:
    """The function that scores the network of now on validation data."""
    if e.scoring is None or e.scoring == "loss":
        return lambda: e._score_of_outputs(*data.outputs(network))
    if not isinstance(data, InMemory):
        raise ValueError(
            f"scoring={e.scoring!r} needs validation rows in memory: give X_val and y_val as arrays, or "
            "scoring=None or 'loss'."
        )
    scorer = check_scoring(e, e.scoring)
    y = e._decode_targets(data.y)
    more = {} if data.weight is None else {"sample_weight": data.weight}
    x = on_host(data.x)
    return lambda: float(scorer(e.snapshot_of(network), x, y, **more))


def _lbfgs(
    e: Any,
    network: Network,
    data: Rows,
    validation: Rows | None,
    listeners: Listeners,
    ranks: Ranks | None,
) -> None:
    """Train by L-BFGS over all rows."""
    loss = e._loss(network.backend.dtype_name)
    objective = Objective(network, loss, parameters.regularizer_of(e), ranks=ranks)
    watch = _watch(e, network, validation)
    search = Search(e, objective, _whole(data), watch, e._loss_scale(), data.divisor, listeners)
    search.run(parameters.rule_of(e), e.max_iter)
