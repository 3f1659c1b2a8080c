"""Update rules w_new = w_old − η ∂J/∂w and their kin, in order of increasing complexity.

A rule is a few lines on vectors and owns no array. `Optimizer` holds what a rule remembers between steps as
named flat vectors beside the parameters, and applies the rule in blocks that stay in a core's cache. The
learning rate η is an argument of every step: schedules never enter here.

    rule.shrink(weights, rate)              decoupled decay, of all weights; most rules have none
    rule.numbers(t, rate)                   h, the numbers of a step: the rate, decays, corrections
    rule.move(xp, h, p, g, **state)         p and the state vectors are updated in place; g is read
    rule.update(xp, t, rate, p, g, **state) the last two in one

with t the number of this step from 1, p a slice of the parameters (of all members', where there are some: the
last axis is the vector), g the same slice of the gradient. Python floats only: a NumPy scalar would turn
float32 into float64. What `move` says is compiled, too, and a CUDA kernel; a rule that has `update` alone is
applied as it is written.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import numpy as np

from mlp_xp.machine.array_api import Array, Namespace, to_host
from mlp_xp.parameters import Parameters
from mlp_xp.settings import checks, fields


class Rule(fields.Checked):
    """What an update rule is asked.

    Attributes
    ----------
    state : tuple of str
        The names of the vectors that it remembers from step to step.
    counts_steps : bool
        Whether its numbers depend on t.
    weight_decay : float
        λ of a decoupled decay; 0 without one.
    """

    state: tuple[str, ...] = ()
    counts_steps: ClassVar[bool] = False
    weight_decay: float = 0.0

    @property
    def search(self) -> "LBFGS | None":
        """Itself, where it is no update rule but searches over the objective of all rows, as L-BFGS does."""
        return None

    def shrink(self, weights: Array, rate: float) -> None:
        """W ← W − η λ W, before the update."""
        if self.weight_decay:
            weights *= 1.0 - rate * self.weight_decay

    def numbers(self, t: int, rate: float) -> tuple[float, ...]:
        """What `move` computes with at step t and rate η."""
        return (rate,)

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, *_: Array, **state: Array) -> None:
        """One step, with its numbers."""
        raise AttributeError("an update rule knows its step")

    def update(self, xp: Namespace, t: int, rate: float, p: Array, g: Array, **state: Array) -> None:
        """One step."""
        self.move(xp, self.numbers(t, rate), p, g, **state)


@dataclasses.dataclass(frozen=True)
class SGD(Rule):
    """Gradient descent: p ← p − η g.

    Stochastic with one row a step, mini-batch with several, gradient descent with all.

    References
    ----------
    Robbins and Monro, A stochastic approximation method, 1951.
    """

    state = ()

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array) -> None:
        """One step."""
        (rate,) = h
        p -= rate * g


@dataclasses.dataclass(frozen=True)
class Momentum(Rule):
    """Momentum: v ← μ v − η g, p ← p + v.

    The rate is inside the velocity (as in scikit-learn); at a constant rate this equals PyTorch's form.

    Parameters
    ----------
    momentum : float in [0, 1]
        μ, the part of the velocity that survives a step.

    References
    ----------
    Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
    """

    momentum: float = fields.number(0.9, least=0, most=1)
    state = ("v",)

    def numbers(self, t: int, rate: float) -> tuple[float, float]:
        """η and μ."""
        return rate, self.momentum

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, v: Array) -> None:
        """One step."""
        rate, momentum = h
        v *= momentum
        v -= rate * g
        p += v


@dataclasses.dataclass(frozen=True)
class Nesterov(Momentum):
    """Nesterov's momentum: v ← μ v − η g, p ← p + μ v − η g.

    Parameters
    ----------
    momentum : float in [0, 1]
        μ, the part of the velocity that survives a step.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum, ICML 2013, equations 3 and 4,
    rewritten for the parameters at which the gradient is taken.
    """

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, v: Array) -> None:
        """One step."""
        rate, momentum = h
        v *= momentum
        v -= rate * g
        p += momentum * v - rate * g


@dataclasses.dataclass(frozen=True)
class RMSprop(Rule):
    """RMSprop: v ← ρ v + (1 − ρ) g², p ← p − η g / (√v + ε).

    Parameters
    ----------
    decay : float in [0, 1)
        ρ, decay per step of the mean of squared gradients.
    eps : float > 0
        Added to √v, in units of the gradient.

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, Neural networks for machine learning, 2012.
    """

    decay: float = fields.number(0.99, least=0, below=1)
    eps: float = fields.number(1e-8, above=0)
    state = ("v",)

    def numbers(self, t: int, rate: float) -> tuple[float, float, float, float]:
        """η, ρ, 1 − ρ and ε."""
        return rate, self.decay, 1.0 - self.decay, self.eps

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, v: Array) -> None:
        """One step."""
        rate, decay, rest, eps = h
        v *= decay
        v += rest * (g * g)
        p -= rate * g / (xp.sqrt(v) + eps)


@dataclasses.dataclass(frozen=True)
class Adam(Rule):
    """Adam: gradient means scaled by the root of squared-gradient means.

        m ← β₁ m + (1 − β₁) g            m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²           v̂ = v / (1 − β₂ᵗ)
        p ← p − η m̂ / (√v̂ + ε)

    The state holds M = m / (1 − β₁) and V = v / (1 − β₂), so that M ← β₁ M + g takes two passes over the
    vector, not three; the scales are folded into two Python floats.

    Parameters
    ----------
    beta1, beta2 : float in [0, 1)
        Decay per step of the two running means.
    eps : float > 0
        Added to √v̂, in units of the gradient.
    eps_on : "corrected" or "raw"
        "corrected" adds ε to √v̂ (Algorithm 1). "raw" adds it to √v and corrects the rate instead, the form
        at the end of section 2: p ← p − η √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε).

    References
    ----------
    Kingma and Ba, Adam, ICLR 2015, Algorithm 1.
    """

    beta1: float = fields.number(0.9, least=0, below=1)
    beta2: float = fields.number(0.999, least=0, below=1)
    eps: float = fields.number(1e-8, above=0)
    eps_on: str = fields.one_of(("corrected", "raw"), "corrected")
    state = ("m", "v")
    counts_steps = True

    def numbers(self, t: int, rate: float) -> tuple[float, float, float, float]:
        """The rate with its corrections, β₁, β₂, and ε in units of √V."""
        scale, eps = self.scales(t)
        return rate * scale, self.beta1, self.beta2, eps

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, m: Array, v: Array) -> None:
        """One step."""
        rate, beta1, beta2, eps = h
        m *= beta1
        m += g
        v *= beta2
        v += g * g
        p -= rate * m / (xp.sqrt(v) + eps)

    def scales(self, t: int) -> tuple[float, float]:
        """The two floats c and e with m̂ / (√v̂ + ε) = c M / (√V + e)."""
        first = (1.0 - self.beta1) / (1.0 - self.beta1**t)
        root = math.sqrt((1.0 - self.beta2) / (1.0 - self.beta2**t))
        return first / root, self.eps / (root if self.eps_on == "corrected" else math.sqrt(1.0 - self.beta2))


@dataclasses.dataclass(frozen=True)
class AdamW(Rule):
    """AdamW: W ← W − η λ W, then Adam's step on W and b; the decay never touches biases.

    Parameters
    ----------
    beta1, beta2, eps : float
        As in `Adam`.
    weight_decay : float >= 0, or one for each member
        λ, the part of a weight that decays per step and unit of learning rate.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, Algorithm 2.
    """

    beta1: float = fields.number(0.9, least=0, below=1)
    beta2: float = fields.number(0.999, least=0, below=1)
    eps: float = fields.number(1e-8, above=0)
    weight_decay: fields.OneOrEach = fields.number(0.01, least=0, of_each=True)
    state = ("m", "v")
    counts_steps = True

    @functools.cached_property
    def adam(self) -> Adam:
        """The rule without decay."""
        return Adam(self.beta1, self.beta2, self.eps)

    def numbers(self, t: int, rate: float) -> tuple[float, float, float, float]:
        """Adam's."""
        return self.adam.numbers(t, rate)

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, m: Array, v: Array) -> None:
        """Adam's step."""
        self.adam.move(xp, h, p, g, m, v)


@dataclasses.dataclass(frozen=True)
class Nadam(Rule):
    """Nadam: Adam with Nesterov's look-ahead on the mean of gradients.

        μ_t = β₁ (1 − 0.96^(t ψ) / 2)
        m ← β₁ m + (1 − β₁) g
        v ← β₂ v + (1 − β₂) g²           v̂ = v / (1 − β₂ᵗ)
        p ← p − η (μ_{t+1} m / (1 − Π_{i≤t+1} μ_i) + (1 − μ_t) g / (1 − Π_{i≤t} μ_i)) / (√v̂ + ε)

    The state holds M and V as in `Adam`.

    Parameters
    ----------
    beta1, beta2, eps : float
        As in `Adam`.
    momentum_decay : float >= 0
        ψ, how fast μ_t warms up to β₁.

    References
    ----------
    Dozat, Incorporating Nesterov momentum into Adam, 2016, Algorithm 2 with the schedule of section 3.
    """

    beta1: float = fields.number(0.9, least=0, below=1)
    beta2: float = fields.number(0.999, least=0, below=1)
    eps: float = fields.number(1e-8, above=0)
    momentum_decay: float = fields.number(0.004, least=0)
    state = ("m", "v")
    counts_steps = True

    def mu(self, t: int) -> float:
        """μ_t."""
        return self.beta1 * (1.0 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def numbers(self, t: int, rate: float) -> tuple[float, ...]:
        """The rate and ε in units of √V, β₁, β₂, and the factors of M and of g."""
        look_ahead, now, root = self.scales(t)
        return rate / root, self.beta1, self.beta2, self.eps / root, look_ahead, now

    def move(self, xp: Namespace, h: Sequence[float], p: Array, g: Array, m: Array, v: Array) -> None:
        """One step."""
        rate, beta1, beta2, eps, look_ahead, now = h
        m *= beta1
        m += g
        v *= beta2
        v += g * g
        p -= rate * (look_ahead * m + now * g) / (xp.sqrt(v) + eps)

    def scales(self, t: int) -> tuple[float, float, float]:
        """The factors of M and of g, and √((1 − β₂) / (1 − β₂ᵗ)), the scale of √V."""
        product = _product_of_mu(self, t)
        look_ahead = (1.0 - self.beta1) * self.mu(t + 1) / (1.0 - product * self.mu(t + 1))
        now = (1.0 - self.mu(t)) / (1.0 - product)
        return look_ahead, now, math.sqrt((1.0 - self.beta2) / (1.0 - self.beta2**t))


@functools.lru_cache(maxsize=64)
def _product_of_mu(rule: Nadam, t: int) -> float:
    """Π_{i≤t} μ_i: from the step before where it is remembered, every 32nd from the start."""
    if t % 32:
        return _product_of_mu(rule, t - 1) * rule.mu(t)
    product = 1.0
    for i in range(1, t + 1):
        product *= rule.mu(i)
        if product < 1e-17:  # less than half an ulp of 1, beside which it stands
            break
    return product


@dataclasses.dataclass(frozen=True)
class LBFGS(Rule):
    """L-BFGS: a quasi-Newton method on the objective over all rows, by SciPy; one iteration an epoch.

    It asks for value and gradient over the whole data set as often as its line search needs, sets its own
    step sizes (the learning rate is not used), and needs a full batch and no dropout.

    Parameters
    ----------
    n_corrections : int
        Pairs of steps and gradient changes that stand for the Hessian.
    gradient_tolerance : float >= 0
        The run has converged when no element of the gradient is larger.
    loss_tolerance : float >= 0
        It has converged, too, when an iteration lowers the objective by less than this part of it.
    max_evaluations : int
        Of value and gradient, at most.

    References
    ----------
    Byrd, Lu, Nocedal and Zhu, A limited memory algorithm for bound constrained optimization, 1995.
    """

    n_corrections: int = fields.whole(10)
    gradient_tolerance: float = fields.number(1e-5, least=0)
    loss_tolerance: float = fields.number(64 * sys.float_info.epsilon, least=0)
    max_evaluations: int = fields.whole(2**31 - 1)
    state = ()

    @property
    def search(self) -> "LBFGS":
        """Itself."""
        return self


OPTIMIZERS: dict[str, type[Rule]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
    "lbfgs": LBFGS,
}


@dataclasses.dataclass(frozen=True)
class RateFactors(fields.Checked):
    """Factors on the learning rate by group of parameters.

    With a rule that takes steps of a size whatever the gradient's (Adam and its kin), `by_fan_in` is what the
    NTK parametrisation z = a W / √n_in + b does. A decoupled decay has the rate without factor.

    Parameters
    ----------
    by_fan_in : bool
        Whether the factor on the weights of a layer with n_in inputs is 1/√n_in, rather than 1.
    biases, input_scale : float > 0
        On all biases, and on the scale of the inputs.
    layers : sequence of float >= 0, optional
        On all that belongs to a layer (the scale of the inputs to the first), one for each, beside the
        others. A layer with 0 is frozen: it neither moves nor decays, and a gradient's norm is without it.

    References
    ----------
    Holzmüller, Grinsztajn and Steinwart, Better by default: strong pre-tuned MLPs and boosted trees on
    tabular data, NeurIPS 2024.
    """

    by_fan_in: bool = True
    biases: float = fields.number(0.1, above=0)
    input_scale: float = fields.number(6.0, above=0)
    layers: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check all; one number stands for a sequence of one."""
        super().__post_init__()
        if self.layers is not None:
            given = self.layers if isinstance(self.layers, tuple | list) else (self.layers,)
            checks.refuse(checks.number("layers", factor, least=0) for factor in given)
            object.__setattr__(self, "layers", tuple(given))

    def freezing(self, layers: Collection[int], n_layers: int) -> "RateFactors":
        """The same with some layers frozen: by number from 0, or from −1 backwards."""
        checks.refuse(
            f"frozen={layer!r} is no layer of this network: 0 is its first, {n_layers - 1} or -1 its last."
            for layer in layers
            if checks.whole("frozen", layer, least=-n_layers) or layer >= n_layers
        )
        factors = list(self.layers or (1.0,) * n_layers)
        for layer in layers:
            factors[layer] = 0.0
        return dataclasses.replace(self, layers=tuple(factors))

    @property
    def frozen(self) -> frozenset[int]:
        """The layers that neither move nor decay."""
        return frozenset(layer for layer, factor in enumerate(self.layers or ()) if not factor)

    def groups(self, parameters: Parameters) -> list[tuple[slice, float]]:
        """Which slices of the vectors have which factor, in their order."""
        sizes = list(itertools.pairwise(parameters.layer_sizes))
        layers = self.layers or (1.0,) * len(sizes)
        if len(layers) != len(sizes) or not any(layers):
            raise ValueError(
                f"layers={layers!r} must be a factor for each of the network's {len(sizes)} layers, "
                "not all of them 0."
            )
        parts = [
            (n_in * n_out, factor / math.sqrt(n_in) if self.by_fan_in else factor)
            for (n_in, n_out), factor in zip(sizes, layers, strict=True)
        ]
        if parameters.bias:
            parts += [(n_out, factor * self.biases) for (_, n_out), factor in zip(sizes, layers, strict=True)]
        if parameters.input_scale is not None:
            parts.append((sizes[0][0], layers[0] * self.input_scale))
        stops = list(itertools.accumulate(size for size, _ in parts))
        return [(slice(stop - size, stop), factor) for stop, (size, factor) in zip(stops, parts, strict=True)]


NO_FACTORS = RateFactors(by_fan_in=False, biases=1.0, input_scale=1.0)
"""The rate for everything."""


class Optimizer:
    """A rule at work: its state beside the parameters that it updates.

    Attributes
    ----------
    groups : list of (slice, float), or None
        Slices of the vectors with a rate of their own, and the factors.
    frozen : list of slice
        Those that do not move.
    decay_factor : float
        On the rate of a decoupled decay.
    t : int
        Steps made.
    is_moving : bool
        Whether a step is under way, or was left by an error.
    state : dict of str to flat array
        What the rule remembers, in the layout of the parameters.
    """

    def __init__(self, rule: Rule, parameters: Parameters, factors: RateFactors | None = None) -> None:
        self.rule = rule
        self.parameters = parameters
        groups = None if factors is None else factors.groups(parameters)
        self.frozen = [part for part, factor in groups or () if factor == 0.0]
        self.groups = None if groups is None else [each for each in groups if each[1]]
        self._parts = _alike(self.groups or [(slice(0, parameters.size), 1.0)])
        n_weights, moving = parameters.n_weights, self.groups if self.frozen else None
        self._moving_weights = [
            parameters.flat[..., part.start : min(part.stop, n_weights)]
            for part, _ in moving or [(slice(0, n_weights), 1.0)]
        ]
        self._is_one_block = groups is None and math.prod(parameters.flat.shape) <= parameters.backend.block
        self.decay_factor = 1.0
        self.t = 0
        self.is_moving = False
        self.state = {name: parameters.backend.zeros(parameters.flat.shape) for name in rule.state}

    def step(self, gradient: Parameters, rate: float) -> None:
        """Update the parameters in place; the gradient is read."""
        self.is_moving = True
        self.t += 1
        p, g = self.parameters.flat, gradient.flat
        self.shrink_weights(rate)
        if self._is_one_block:
            self.rule.update(self.parameters.backend.xp, self.t, rate, p, g, **self.state)
        else:
            self._update_in_blocks(p, g, rate)
        self.is_moving = False

    def _update_in_blocks(self, p: Array, g: Array, rate: float) -> None:
        """Slices that stay in a core's cache, each group of parameters at its own rate."""
        backend = self.parameters.backend
        for group, factor in self._parts:
            for part in backend.blocks(*p.shape[:-1], group.stop - group.start):
                at = ..., slice(group.start + part.start, group.start + part.stop)
                state = {name: vector[at] for name, vector in self.state.items()}
                self.rule.update(backend.xp, self.t, rate * factor, p[at], g[at], **state)

    def shrink_weights(self, rate: float) -> None:
        """W ← W − η λ W, for a rule with decoupled decay."""
        for weights in self._moving_weights:
            self.rule.shrink(weights, rate * self.decay_factor)

    def hold(self, gradient: Parameters) -> None:
        """Set to 0 what the gradient has for frozen layers."""
        for part in self.frozen:
            gradient.flat[..., part] = 0.0

    def flush_subnormals(self) -> None:
        """Set to zero what has decayed below the smallest normal number.

        A dead unit's moments would stay there for good (0.9 × the smallest subnormal rounds to itself), and
        arithmetic on subnormals is several times slower.
        """
        backend = self.parameters.backend
        xp, tiny = backend.xp, float(backend.xp.finfo(backend.dtype).smallest_normal)
        for vector in self.state.values():
            for part in backend.blocks(*vector.shape):
                vector[..., part] *= xp.astype(xp.abs(vector[..., part]) >= tiny, backend.dtype)

    def restore(self, t: int, state: Mapping[str, Array]) -> None:
        """Go on after step t with a copy of a state: host arrays, or arrays of the parameters' device."""
        self.t, backend = t, self.parameters.backend
        for name, vector in self.state.items():
            known = state[name]
            vector[...] = known if backend.owns(known) else backend.asarray(known)

    def to_host(self) -> dict[str, np.ndarray]:
        """The state as host arrays, copied."""
        return {name: to_host(vector).copy() for name, vector in self.state.items()}


def _alike(groups: Sequence[tuple[slice, float]]) -> list[tuple[slice, float]]:
    """Groups, of which neighbours with the same factor are one: 5% less time for a step of the recipe."""
    found: list[tuple[slice, float]] = []
    for part, factor in groups:
        if found and found[-1][0].stop == part.start and found[-1][1] == factor:
            part = slice(found.pop()[0].start, part.stop)
        found.append((part, factor))
    return found


def clip_by_global_norm(gradient: Parameters, limit: float) -> None:
    """Scale the gradient so that its Euclidean norm is at most `limit`; nothing is read from the device.

    References
    ----------
    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, section 3.2.
    """
    g, xp = gradient.flat, gradient.backend.xp
    unit = xp.maximum(xp.max(xp.abs(g), axis=-1, keepdims=True), limit)  # (g / unit)² does not overflow
    share, scaled = limit / unit, g / unit
    g *= share / xp.maximum(xp.sqrt(xp.vecdot(scaled, scaled))[..., None], share)
