"""Steps of members on a CUDA GPU: each kernel and product computes those of all, and a step is one launch."""

from typing import Any

import numpy as np

from mlp_xp.fast import programs
from mlp_xp.fast.on_cuda import CudaStep
from mlp_xp.machine.array_api import to_host
from mlp_xp.members.step import Members, MemberStep
from mlp_xp.rows.batch import Block
from mlp_xp.run.rates import Rates


class CapturedMemberStep(MemberStep):
    """Steps of all members together; an update is one kernel where their rules differ in numbers alone."""

    def __init__(self, of: Members, *, captures: bool = True, schedules_more: bool = False) -> None:
        super().__init__(of)
        limits = None if self._limits is None else to_host(self._limits)
        self.together = CudaStep(
            of.objective, of.optimizer, limits, captures=captures, schedules_more=schedules_more
        )
        if len({programs.steps_of(each.rule) for each in of.optimizer.each}) > 1:
            self.together.program = None
        self.add_chunk = self.together.add_chunk

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches, handed over together; return how many."""
        most = self.together.n_ahead(block, first, most if self.of.average is None else 1)
        divisors = self.divisors_ahead(block, first, most) if most else np.empty((0, 1))
        if not len(divisors):
            return 0
        rates.ahead(len(divisors))
        running = np.array(self.members.losses.running)
        inverses = np.ones_like(divisors) if self.members.reduction == "sum" else 1.0 / divisors
        decays = rates.more_ahead(len(divisors)).decays[:, np.newaxis] if rates.schedules_more else 1.0
        numbers = self._numbers(inverses if running.all() else inverses * running, decays)
        return self.together.make(block, first, numbers, list(divisors), rates.history.step)

    def apply(self, rate: float) -> None:
        """Move the weights of those that move, each at its own rate."""
        program, rules = self.together.program, self.rules
        if program is None:
            super().apply(rate)
            return
        moves = np.ones((1, 1)) if rules.moving.all() else rules.moving[np.newaxis]
        self.together.move(program, self._numbers(moves, rules.decay_factor))
        rules.behind[:] = np.add(rules.behind, ~rules.moving).tolist()

    def _numbers(self, inverses: np.ndarray, decays: Any) -> np.ndarray:
        """What changes from step to step, (n_steps, 1 or members, …); 1 / Σ s is 0 for who does not move."""
        rules, rates = self.rules, self.rates.ahead_of_each(len(inverses))
        is_shared = rates.shape[1] == inverses.shape[1] == 1 and rules.is_one_rule and not any(rules.behind)
        shape = len(rates), 1 if is_shared else self.members.n
        found = rules.numbers_of_each(range(shape[1]), np.broadcast_to(rates, shape), rules.t + 1, decays)
        numbers = self.together.numbers_without_a_rule(len(rates), np.broadcast_to(inverses, shape))
        numbers[..., : found.shape[1]] = np.swapaxes(found, 1, 2)
        return numbers

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        self.together.forget_buffers()
