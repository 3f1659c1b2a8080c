"""The programs that the makers of CUDA kernels are given, by the makers' names: those of the catalogues."""

import itertools

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.fast import programs
from mlp_xp.losses import LOSSES
from mlp_xp.optimizers import LBFGS, OPTIMIZERS

REALS = {"float32": "float", "float64": "double"}
RULES = [name for name, rule in OPTIMIZERS.items() if rule is not LBFGS]


def _activations():
    for name, (dtype, real) in itertools.product(ACTIVATIONS, REALS.items()):
        yield programs.of_activation(ACTIVATIONS[name](), dtype), real


def _losses():
    made = [LOSSES[name]() for name in LOSSES]
    made += [LOSSES["binary_cross_entropy"](eps=0.1), LOSSES["poisson"](deviance=True)]
    found = [(programs.of_loss(loss, dtype), real) for loss in made for dtype, real in REALS.items()]
    return [each for each in found if each[0] is not None]


ARGUMENTS = {
    "_activate_kernel": [
        (both.forward, n) for both, _ in _activations() for n in range(1, len(both.forward.outputs) + 1)
    ],
    "_chain_kernel": [(both.chain, real) for both, real in _activations()],
    "_differentiate_kernel": _losses(),
    "_update_kernel": [
        (programs.of_rule(OPTIMIZERS[name]()), of_members) for name in RULES for of_members in (False, True)
    ],
}
