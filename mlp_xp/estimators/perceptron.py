"""What both estimators share: weights as attributes, predictions in bounded memory, pickles."""

import math
import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.sparse
from sklearn import get_config
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from mlp_xp import derivatives
from mlp_xp.estimators.array_home import HOST, Home, home_of, on_host, seen_by_host, stays
from mlp_xp.estimators.data import CHUNK_ROWS, dense_pieces, is_streamed
from mlp_xp.estimators.drawing import set_weights
from mlp_xp.estimators.numeric import refuse_dates, refuse_non_finite, refuse_overflow, refuse_texts
from mlp_xp.estimators.parameters import Parameters, hidden_activations
from mlp_xp.estimators.saved import description_of
from mlp_xp.estimators.targets import Targets
from mlp_xp.machine.array_api import DTYPES, Array, ArrayLike, to_host
from mlp_xp.network import Network
from mlp_xp.rows.device_arrays import ResidentSource

try:
    from sklearn.callback import CallbackSupportMixin as _mixin
except ModuleNotFoundError:  # scikit-learn before 1.9
    _mixin = type("NoCallbacks", (), {})

CallbackSupport: Any = _mixin
"""The base class that brings `set_callbacks`, where scikit-learn has it; else one that brings nothing."""


class Built(NamedTuple):
    """A network, and the arrays of `coefs_` and `intercepts_` that stand for its parameters."""

    network: Network
    arrays: tuple[Array, ...]


class Perceptron(CallbackSupport, Parameters):
    """What both estimators share."""

    def __sklearn_tags__(self) -> Tags:
        """Tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def _publish(self, network: Network) -> None:
        """Make a network's parameters `coefs_` and `intercepts_`.

        They are views of the network's vector where they can be: what a user writes into them is what
        predicts. Copies cannot be written.
        """
        home = self._home()
        parameters = network.parameters
        layers = [*parameters.weights, *parameters.biases]
        if home_of(layers[0]) != home:
            layers = [home.send(to_host(each)) for each in layers]
            if network.backend.name != "cpu" and home == HOST:
                layers = [each.copy() for each in layers]
                for each in layers:
                    each.flags.writeable = False
        self.coefs_ = layers[: network.n_layers]
        self.intercepts_ = layers[network.n_layers :]
        self._built = Built(network, tuple(layers))

    def description(self) -> dict[str, Any]:
        """What a model file holds of this estimator, beside the network."""
        check_is_fitted(self)
        return description_of(self)

    @property
    def network(self) -> Network:
        """The fitted network, as `mlp_xp.train` and `mlp_xp.save` know it."""
        check_is_fitted(self)
        return self._network_now()

    @property
    def _optimizer(self) -> SimpleNamespace:
        """scikit-learn's private object, of which people read `learning_rate`: that of the coming epoch.

        Adam's corrections, which scikit-learn has in it, are not.
        """
        return SimpleNamespace(learning_rate=self._training.rates.now())

    def _home(self) -> Home:
        """Where the training data lived: `_home_marker` is an empty array there."""
        return home_of(vars(self).get("_home_marker"))

    def _network_now(self) -> Network:
        """The network of `coefs_` and `intercepts_`, also where a user has assigned others."""
        built = self.__dict__.get("_built")
        arrays = [*self.coefs_, *self.intercepts_]
        if (
            built is None
            or len(arrays) != len(built.arrays)
            or not all(map(operator.is_, arrays, built.arrays))
        ):
            self._build()
        return self._built.network

    def _build(self) -> None:
        """Make the network of `coefs_` and `intercepts_`."""
        weights = [np.asarray(on_host(each)) for each in self.coefs_]
        biases = [np.asarray(on_host(each)) for each in self.intercepts_]
        found = weights[0].dtype.name
        network = Network(
            [weights[0].shape[-2], *(each.shape[-1] for each in weights)],
            activation=hidden_activations(self.activation, len(weights) - 1),
            initializer="zeros",
            device=vars(self).get("device_", "cpu"),
            dtype=found if found in DTYPES else "float64",
            members=len(weights[0]) if weights[0].ndim == 3 else None,
        )
        set_weights(network.parameters, weights, biases)
        network.output = self._targets.loss("float64").link
        self._publish(network)

    def _input(self, X: ArrayLike, method: str) -> tuple[ArrayLike, Home]:
        """Checked host rows and where X lives.

        Raises
        ------
        TypeError
            X is no array.
        ValueError
            X does not fit the training data, or lives elsewhere while scikit-learn's dispatch is on.
        """
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        if is_streamed(X):
            raise TypeError(
                f"{type(self).__name__}.{method}() takes arrays or frames, not {X!r}: fit alone reads paths "
                "and sources. Give it rows, some at a time if they are many."
            )
        home = home_of(X)
        is_plain = self._is_plain(X)
        if not is_plain:
            refuse_dates("X", X)
            refuse_texts(X, numeric=self._y_numeric)
        if get_config()["array_api_dispatch"] and home != self._home():
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the "
                f"same device as those passed to fit(): that was {self._home()}, this is {home}."
            )
        if stays(X):
            validate_data(self, seen_by_host(X), dtype=None, reset=False)
            ResidentSource(X)  # refuses what is not finite
        elif not is_plain:
            X = validate_data(
                self, X if home == HOST else on_host(X), accept_sparse=["csr", "csc"], reset=False
            )
        return X, home

    def _is_plain(self, X: ArrayLike) -> bool:
        """Whether `validate_data` would return X itself, which takes it 75 µs to find out."""
        if type(X) is not np.ndarray or X.ndim != 2 or X.dtype.char not in "fd" or not X.dtype.isnative:
            return False
        if X.shape[1] != self.n_features_in_ or len(X) == 0 or "feature_names_in_" in vars(self):
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(X.sum())

    def _outputs(self, X: ArrayLike, members: str = "mean") -> np.ndarray:
        """The network's output after its link, (n_rows, n_outputs), or of all members, on the host."""
        network = self._network_now()
        refuse_overflow(X, network.backend.dtype_name)
        if not scipy.sparse.issparse(X):
            return to_host(network.predict(X, members=members))
        lead = (network.members or 1,) if members == "all" else ()
        shape = (*lead, X.shape[0], network.layer_sizes[-1])
        outputs = np.empty(shape, dtype=network.backend.dtype_name)
        for start, rows in dense_pieces(X):
            outputs[..., start : start + len(rows), :] = network.predict(rows, members=members)
        return outputs

    def _finite_outputs(self, X: ArrayLike, members: str = "mean") -> np.ndarray:
        """The network's output, refused where it is none."""
        outputs = self._outputs(X, members)
        for each in outputs if members == "all" else [outputs]:
            refuse_non_finite(each)
        return outputs

    def _of_each(
        self, X: ArrayLike, method: str, found: Callable[[Network, Array], list[np.ndarray]]
    ) -> tuple[list[list[np.ndarray]], Home]:
        """What a function of some rows gives for all of them, of each member; and where X lives."""
        X, home = self._input(X, method)
        members = self._network_now().each()
        pieces = ([found(member, rows) for rows in _chunks(X)] for member in members)
        return [[np.concatenate(parts) for parts in zip(*each, strict=True)] for each in pieces], home

    def hidden_activations(self, X: ArrayLike) -> list[Array]:
        """What each hidden layer makes of the rows of X: a_1 … a_{L−1}, (n_rows, n_units) each.

        With an axis of members before, where there are some.
        """
        each, home = self._of_each(X, "hidden_activations", derivatives.hidden)
        found = each[0] if self._network_now().members is None else map(np.stack, zip(*each, strict=True))
        return [home.send(layer) for layer in found]

    def input_gradient(self, X: ArrayLike) -> Array:
        """How each output changes with each feature: ∂z_L / ∂x = δ_1 W_1ᵀ, by backpropagation.

        z_L is the network's output before its link: the prediction itself for squared error, the
        log-odds or logits of a classifier, the logarithm of a Poisson rate; of members their mean.

        Returns
        -------
        array of shape (n_samples, n_features), or (n_samples, n_outputs, n_features)
            Without the middle axis where there is one output.
        """
        each, home = self._of_each(X, "input_gradient", lambda *rows: [derivatives.jacobian(*rows)])
        found = each[0][0] if len(each) == 1 else np.mean([of_member for (of_member,) in each], axis=0)
        return home.send(found[:, 0] if found.shape[1] == 1 else found)

    def snapshot_of(self, network: Network) -> Self:
        """A copy of this estimator, fitted with the parameters that a network has now."""
        copied = self.__copy__()
        copied.__dict__ |= self._as_fitted(network)
        return copied

    def _as_fitted(self, network: Network) -> dict[str, Any]:
        """The attributes of an estimator whose training stops now."""
        home = self._home()
        layers = [
            home.send(to_host(each).copy())
            for each in [*network.parameters.weights, *network.parameters.biases]
        ]
        return {"coefs_": layers[: network.n_layers], "intercepts_": layers[network.n_layers :]}

    def __copy__(self) -> Self:
        """Attributes shared; the network is made again as soon as other weights are assigned."""
        copied = object.__new__(type(self))
        copied.__dict__ = {name: value for name, value in vars(self).items() if name != "_built"}
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Host arrays only: a pickle is read where neither a GPU nor another library is."""
        state = dict(super().__getstate__())
        state.pop("_built", None)
        if "coefs_" in state:
            for name in ("coefs_", "intercepts_"):
                state[name] = [np.asarray(on_host(each)) for each in state[name]]
            state["_home_marker"] = np.empty(0)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network again, on the CPU where its device is not to be had."""
        super().__setstate__(state)
        if "coefs_" in state:
            try:
                self._build()
            except RuntimeError:
                self.device_ = "cpu"
                self._build()

    @property
    def _targets(self) -> Targets:
        """What targets are to the core."""
        raise NotImplementedError


def _chunks(X: ArrayLike) -> Iterator[Array]:
    for _, rows in dense_pieces(X):
        for start in range(0, rows.shape[0], CHUNK_ROWS):
            yield rows[start : min(start + CHUNK_ROWS, rows.shape[0]), ...]
