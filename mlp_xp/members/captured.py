"""Steps of members on a CUDA GPU: each kernel and product computes those of all, and a step is one launch."""

import copy
import sys

import numpy as np

from mlp_xp.fast import programs
from mlp_xp.fast.cuda.engine import Engine
from mlp_xp.fast.on_cuda import CudaStep
from mlp_xp.machine.array_api import to_host
from mlp_xp.members.step import Members, MemberStep
from mlp_xp.rows.batch import Block, Chunk
from mlp_xp.run.rates import Rates


class CapturedMemberStep(MemberStep):
    """Steps of all members together, where their rules differ in numbers alone; the others are plain."""

    def __init__(self, of: Members, *, captures: bool = True, engine: Engine | None = None) -> None:
        super().__init__(of)
        objective, optimizer = of.objective, of.optimizer
        self.at_most = sys.maxsize if of.average is None else 1
        known = {programs.steps_of(each.rule) for each in optimizer.each}
        is_possible = len(known) == 1 and None not in known and objective.ranks is None
        self.together: CudaStep | None = None
        if is_possible:
            limits = None if self._limits is None else to_host(self._limits)
            fused = copy.copy(objective)  # the plain one stays, for steps that are not made together
            self.together = CudaStep(fused, optimizer, limits, captures=captures, engine=engine)

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches, handed over together; return how many."""
        if self.together is None or self.together.program is None or block.rows is None:
            return 0
        size = block.batch_size
        n_left = block.rows.x.shape[-2] - first * size
        most = min(most, self.at_most, self.together.engine.AT_ONCE, max(1, n_left // size))
        divisors = self.divisors_ahead(block, first, most)
        if not len(divisors):
            return 0
        rates.ahead(len(divisors))
        rows = Chunk(*(None if part is None else part[..., first * size :, :] for part in block.rows))
        numbers = self._numbers(self.rates.ahead_of_each(len(divisors)), divisors, self.together.engine)
        return self.together.make(rows, min(size, n_left), numbers, list(divisors), rates.history.step)

    def _numbers(self, rates: np.ndarray, divisors: np.ndarray, engine: Engine) -> np.ndarray:
        """What changes from step to step, (n_steps, 1 or members, …): who has stopped does not move."""
        rules, running = self.rules, np.array(self.members.losses.running)
        is_shared = rates.shape[1] == divisors.shape[1] == 1 and running.all()
        n = 1 if is_shared and rules.is_one_rule and not any(rules.behind) else self.members.n
        rates = np.broadcast_to(rates, (len(rates), n))
        found = rules.numbers_of_each(range(n), rates, rules.t + 1)
        numbers = np.zeros((*rates.shape, engine.N_SCALARS), dtype=rules.parameters.backend.dtype_name)
        numbers[..., : found.shape[1]] = np.swapaxes(found, 1, 2)
        inverses = 1.0 if self.members.reduction == "sum" else 1.0 / divisors
        numbers[..., engine.INVERSE] = inverses * running[:n]
        return numbers

    def forget_buffers(self) -> None:
        """Let go of all memory that depends on the number of rows."""
        super().forget_buffers()
        if self.together is not None:
            self.together.forget_buffers()
