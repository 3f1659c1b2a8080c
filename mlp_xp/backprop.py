"""Memoised backpropagation: all derivatives by the chain rule, from the end of the network to the start."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mlp_xp.forward import Memo
from mlp_xp.machine.array_api import Array, Backend
from mlp_xp.parameters import Parameters

if TYPE_CHECKING:
    from mlp_xp.network import Network


def backprop(
    network: "Network",
    memo: Memo,
    delta: Array,
    gradient: Parameters,
    *,
    add: bool = False,
    frozen: Collection[int] = (),
) -> Array:
    """Compute the derivative of the loss with respect to every weight and bias.

        ∂L/∂W_l = a_{l−1}ᵀ δ_l        ∂L/∂b_l = Σ_i δ_l        δ_{l−1} = (δ_l W_lᵀ) ⊙ f'_{l−1}

    and, where each input has a scale s, with U = xᵀ δ_1

        ∂L/∂W_1 = s ⊙ U               ∂L/∂s_j = Σ_k w_jk u_jk

    A unit feeds every unit of the next layer, so the paths through them are summed: that is the product
    δ_l W_lᵀ. Every δ_l is computed once and serves all weights before it, every a_l and f'_l comes from the
    memo: nothing is computed twice.

    Parameters
    ----------
    network : Network
        Read.
    memo : Memo
        What the forward pass of the same chunk left; consumed.
    delta : array (n_rows, n_outputs), or (members, n_rows, n_outputs)
        ∂L/∂z of the loss with respect to what `forward` returned; consumed.
    gradient : Parameters
        Filled, or added to.
    add : bool
        Whether to add to the gradient rather than write it: chunks of one step after the first.
    frozen : collection of int
        Layers, not all, whose gradient is left as it is. It ends with the lowest of the others.

    Returns
    -------
    array (n_rows, n_units), or (members, n_rows, n_units)
        δ of the layer that it ends with; δ_1 W_1ᵀ (⊙ s) is the derivative with respect to x.
    """
    backend, activations = network.backend, network.activations
    into, matmul = backend.into, memo.matmul
    if not network.output_is_linear:
        activations[-1].chain(backend, delta, memo.kept[-1])
    lowest = min(set(range(network.n_layers)).difference(frozen)) if frozen else 0
    for layer in range(network.n_layers - 1, lowest - 1, -1):
        weights, biases, _ = network.layers[layer]
        below = memo.deltas[layer - 1] if layer > lowest else None
        # One output: a column times a row, twice as fast by `multiply` (200 × 100: 11, not 24 µs).
        product = matmul if delta.shape[-1] > 1 else backend.xp.multiply
        both = memo.matmuls if product is matmul and below is not None and not add else None
        if layer not in frozen:
            if layer == 0 and memo.products is not None:
                _through_scale(network, memo, delta, gradient, add)
            elif both is None:
                _write_or_add(backend, matmul, gradient.weights[layer], memo.inputs[layer].mT, delta, add)
            else:  # to share two products out costs as much as to share out one
                both([(memo.inputs[layer].mT, delta, gradient.weights[layer]), (delta, weights.mT, below)])
            if biases is not None:
                _write_or_add(backend, backend.xp.matmul, gradient.biases[layer], memo.ones, delta, add)
        if below is not None:
            if both is None or layer in frozen:
                into(below, product, delta, weights.mT)
            delta = below
            activations[layer - 1].chain(backend, delta, memo.kept[layer - 1])
            if memo.masks[layer - 1] is not None:
                delta *= memo.masks[layer - 1]
    return delta


def _through_scale(network: "Network", memo: Memo, delta: Array, gradient: Parameters, add: bool) -> None:
    """From one product U = xᵀ δ_1 the derivatives with respect to s and to W_1."""
    xp, into, parameters = network.backend.xp, network.backend.into, network.parameters
    u = into(memo.products, memo.matmul, memo.inputs[0].mT, delta)
    of_scale = xp.sum(into(memo.scaled, xp.multiply, parameters.weights[0], u), axis=-1, keepdims=True)
    of_weights = into(memo.scaled, xp.multiply, u, parameters.input_scale)
    if add:
        gradient.input_scale += of_scale
        gradient.weights[0] += of_weights
    else:
        gradient.input_scale[...] = of_scale
        gradient.weights[0][...] = of_weights


def _write_or_add(
    backend: Backend, matmul: Callable[..., Array], out: Array, left: Array, right: Array, add: bool
) -> None:
    """out ← left @ right, or out ← out + left @ right."""
    if backend.write_gradient is not None:
        backend.write_gradient(out, left, right, add)
    elif add:
        out += matmul(left, right)
    else:
        backend.into(out, matmul, left, right)
