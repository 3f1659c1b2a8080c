"""Members of a tiny network side by side: one compiled step makes those of many, along an axis of members.

A tiny network's step is short because there is little to compute, and most of it is getting ready. So the
vectors of some members are turned to (size, members), trained so for many steps, and turned back.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from mlp_xp.fast import on_cpu
from mlp_xp.machine.array_api import Array
from mlp_xp.members.pieces import alone
from mlp_xp.members.step import Members, Steps

FEWEST = 6
"""Members that pay: fewer are as fast one by one, on a core each."""

MOST_WORK, WORK_PER_MEMBER = 16_000, 500
"""Weights × rows of a step, up to which it pays: in all, and for each of a few members, which leave cores
without any. Larger products are faster one by one, by the BLAS."""

WIDTH = 4096
"""Rows × members that are trained by one call, so that all that they need stays in a core's cache."""

NARROWEST, WIDEST = 32, 256
"""Members that are trained by one call nevertheless, at least and at most."""

CORES, MEMBERS_A_CORE = 4, 64
"""For which there are calls, where there are members enough for each; also on machines with more or fewer."""


def pays(n_weights: int, n_rows: int, members: int) -> bool:
    """Whether members are trained side by side: a function of sizes."""
    return members >= FEWEST and n_weights * n_rows <= min(MOST_WORK, WORK_PER_MEMBER * members)


class SideBySide:
    """What makes the steps of some members, whose rules have one program, by one call."""

    def __init__(self, plan: on_cpu.Plan, of: Members) -> None:
        optimizer = of.optimizer
        self.plan, self.optimizer = plan, optimizer
        self.reduction, self.has_labels = of.objective.reduction, of.objective.loss.labels
        self.clip_norms = np.array([norm or 0.0 for norm in of.clip_norms])
        decaying = max(optimizer.programs, key=lambda rule: rule.weight_decay)
        dtype = optimizer.parameters.backend.dtype_name
        self.shared, self.of_each = (
            on_cpu.CompiledRule(decaying, optimizer.programs[decaying], dtype, of_each=of_each)
            for of_each in (False, True)
        )

    def groups(self, members: Sequence[int], batch: int) -> list[list[int]]:
        """Those of which `make` makes the steps at a time; not by the number of threads, nor are the bits."""
        most = min(WIDEST, max(NARROWEST, WIDTH // batch))
        n_groups = max(-(-len(members) // most), min(CORES, len(members) // MEMBERS_A_CORE))
        bounds = [len(members) * n // n_groups for n in range(n_groups + 1)]
        return [list(members[start:stop]) for start, stop in itertools.pairwise(bounds)]

    def make(self, members: Sequence[int], steps: Steps) -> None:
        """Make the steps of some members."""
        from mlp_xp.fast.compiled.lanes import LANES

        plan, optimizer, n = self.plan, self.optimizer, len(members)
        # Lanes that are left over follow the last member.
        lanes = [*members, *([members[-1]] * (-n % LANES))]
        stored = [optimizer.parameters.flat, *optimizer.state.values()]
        turned = [np.ascontiguousarray(vector[lanes].T) for vector in stored]
        p = turned[0]
        first, second = (*turned[1:], p, p)[: on_cpu.MOST_STATE]
        rates, divisors = (of if of.shape[1] == 1 else of[:, lanes] for of in (steps.rates, steps.divisors))
        t = optimizer.t + steps.n_before
        rule, numbers = self._rule(lanes, rates, steps.more.decays, t)
        x, y, labels, weight = on_cpu.as_read(steps.rows, has_labels=self.has_labels)
        if weight.shape[1] > 1:
            weight = np.ascontiguousarray(weight[:, lanes])
        n_weights = optimizer.parameters.n_weights
        told = (rule, np.array([0, len(p)]), numbers, p, np.empty_like(p), first, second, n_weights)
        own = np.empty((len(rates), steps.values.shape[1], len(lanes)))
        on_cpu.by_one_thread(
            plan.of_members(lanes),
            self.clip_norms[lanes],
            on_cpu.drops_of([alone(steps.more.dropout, n) for n in lanes], steps.more),
            (*told, len(p) - n_weights),
            (x, y, labels, weight),
            steps.batch,
            on_cpu.scales_of(divisors, self.reduction),
            own,
        )
        for vector, new in zip(stored, turned, strict=True):
            vector[_slice_of(members)] = new.T[:n]
        steps.values[..., _slice_of(members)] = own[..., :n]

    def _rule(
        self, members: Sequence[int], rates: np.ndarray, decays: np.ndarray, t: int
    ) -> tuple[int, Array]:
        """The address of the rule of some members, and its numbers for each step: all share them, or not."""
        optimizer, first = self.optimizer, t + 1
        behind = {optimizer.behind[n] for n in members}
        if optimizer.is_one_rule and len(behind) == 1 and rates.shape[1] == 1:
            return self.shared.address, self.shared.numbers(first - behind.pop(), rates[:, 0], decays)
        rates = np.broadcast_to(rates, (len(rates), len(members)))
        found = optimizer.numbers_of_each(members, rates, first, decays[:, np.newaxis])
        return self.of_each.address, found.reshape(len(rates), 1, -1)


def _slice_of(members: Sequence[int]) -> slice | Sequence[int]:
    """A slice, where members follow one on the other: several times as fast to write to."""
    first, last = members[0], members[-1]
    return slice(first, last + 1) if last - first + 1 == len(members) else members
