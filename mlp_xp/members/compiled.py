"""Compiled steps of members on a CPU: each core makes those of its own members, and waits for nobody.

A member's steps are those that it would make alone by one thread (`fast.on_cpu`); here they are dealt out.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlp_xp.fast import on_cpu
from mlp_xp.losses import Loss
from mlp_xp.machine import blas
from mlp_xp.machine.array_api import Array
from mlp_xp.members.pieces import EachLoss, EachPenalty
from mlp_xp.members.step import MemberObjective, MemberOptimizer, MemberStep
from mlp_xp.objective import Objective
from mlp_xp.regularizers import ElasticNet, Regularizer
from mlp_xp.rows.batch import Block, Chunk
from mlp_xp.run.rates import Rates


class CompiledMemberStep(MemberStep):
    """Steps of members that are compiled from a certain one on, where all of them can be.

    Parameters
    ----------
    objective, optimizer, clip_norms, rates
        As of `MemberStep`.
    rates_ahead : callable (int) -> list of list of float
        Gives η of each member at each of the coming steps.
    schedules_more : bool
        Whether more than the rate changes from step to step.
    """

    def __init__(
        self,
        objective: MemberObjective,
        optimizer: MemberOptimizer,
        clip_norms: Sequence[float | None],
        rates: Callable[[], Sequence[float]],
        rates_ahead: Callable[[int], list[list[float]]],
        *,
        schedules_more: bool = False,
    ) -> None:
        super().__init__(objective, optimizer, clip_norms, rates)
        self.clip_norms, self.rates_ahead, self.schedules_more = clip_norms, rates_ahead, schedules_more
        self.each: list[on_cpu.CpuStep] | None = None
        parameters = optimizer.parameters
        n_units = sum(parameters.layer_sizes[1:])
        self.first_compiled = on_cpu.first_compiled_step(n_units, parameters.size) // objective.n
        self.is_possible = objective.dropout is None and objective.ranks is None and not schedules_more

    def _turn(self, number: int) -> list[on_cpu.CpuStep] | None:
        """What makes each member's steps, where the one of this number is compiled."""
        if self.each is None and self.is_possible and number >= self.first_compiled:
            self.each = self._steps_of_each()
            self.is_possible = all(step.plan is not None and step.rule is not None for step in self.each)
        return self.each if self.is_possible else None

    def _steps_of_each(self) -> list[on_cpu.CpuStep]:
        """A step of each member alone, by one thread."""
        steps: list[on_cpu.CpuStep] = []
        for n, network in enumerate(self.members.network.each()):
            loss, penalty = _own(n, self.members.loss, self.members.regularizer)
            alone = Objective(network, loss, penalty, reduction=self.members.reduction)
            step = on_cpu.CpuStep(alone, self.rules.each[n], self.clip_norms[n])
            step.turn()
            step.n_threads = 1
            if steps and step.rule is not None and self.rules.is_one_rule:
                step.rule = steps[0].rule
            steps.append(step)
        return steps

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches; return how many were made."""
        each = self._turn(rates.history.step)
        if each is None or block.rows is None:
            return 0
        batch, parameters = block.batch_size, self.rules.parameters
        most = min(most, max(1, on_cpu.MOST_WORK // (batch * parameters.size)))
        has_rows = itertools.takewhile(lambda divisor: np.all(divisor > 0), block.divisors(first, most))
        divisors = np.array([np.broadcast_to(divisor, self.members.n) for divisor in has_rows])
        if not len(divisors):
            return 0
        rates.ahead(len(divisors))
        ahead = np.array(self.rates_ahead(len(divisors)))
        rows = slice(first * batch, (first + len(divisors)) * batch)
        x, y, weight = (None if part is None else part[rows] for part in block.rows)
        running = [n for n, is_running in enumerate(self.members.losses.running) if is_running]

        def make(n: int) -> None:
            own = None if weight is None else weight[:, n : n + 1] if weight.shape[1] > 1 else weight
            step, optimizer = each[n], self.rules.each[n]
            step.objective.losses.start()
            optimizer.t = self.rules.t - self.rules.behind[n]
            step.make(Chunk(x, y, own), batch, ahead[:, n].tolist(), divisors[:, n].tolist())

        with blas.computing(1):
            if len(running) == 1 or on_cpu.n_threads() == 1:
                for n in running:
                    make(n)
            else:
                with ThreadPoolExecutor(min(len(running), on_cpu.n_threads(), os.cpu_count() or 1)) as pool:
                    list(pool.map(make, running))
        self._store(each, running, divisors)
        self.rules.t += len(divisors)
        return len(divisors)

    def _store(self, each: Sequence[on_cpu.CpuStep], running: Sequence[int], divisors: Array) -> None:
        """Enter the values of all members; those of one that broke off are nan."""
        losses, n_values = self.members.losses, len(divisors) * (1 + self.members.losses.has_penalty)
        values = np.zeros((n_values, self.members.n))
        for n in running:
            found = each[n].objective.losses.values()
            values[:, n] = np.nan
            values[: len(found), n] = found
        losses.extend(values, divisors)


def _own(n: int, loss: Loss, penalty: Regularizer | None) -> tuple[Loss, Regularizer | None]:
    """A member's loss and penalty."""
    return (
        loss.losses[n] if isinstance(loss, EachLoss) else loss,
        (penalty.penalties[n] or ElasticNet()) if isinstance(penalty, EachPenalty) else penalty,
    )
