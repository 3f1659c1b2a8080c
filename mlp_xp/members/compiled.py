"""Compiled steps of members on a CPU: each core makes those of its own members, and waits for nobody.

A member's steps are those that it would make alone by one thread (`fast.on_cpu`), dealt out over the cores;
those of tiny networks are made many members at a time (`members.side_by_side`).
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlp_xp.fast import compiled, on_cpu, programs
from mlp_xp.machine import blas
from mlp_xp.machine.threads import together
from mlp_xp.members.pieces import EachPenalty, alone
from mlp_xp.members.side_by_side import SideBySide, pays
from mlp_xp.members.step import Members, MemberStep, Steps
from mlp_xp.objective import Objective
from mlp_xp.regularizers import ElasticNet, Regularizer
from mlp_xp.rows.batch import Block
from mlp_xp.run.rates import Rates

MOST_OF_EACH = 2**20
"""Steps × members of one call: each may have numbers of its own for every step, 8 bytes each, some 60 MB."""


class OneByOne:
    """What makes the steps of one member after the other; members may share a rule."""

    def __init__(
        self, plans: Sequence[on_cpu.Plan], rules: Sequence[on_cpu.CompiledRule], of: Members
    ) -> None:
        self.plans, self.rules, self.optimizer, self.average = plans, rules, of.optimizer, of.average
        self.reduction, self.has_labels = of.objective.reduction, of.objective.loss.labels
        self.clip_norms = [np.array([norm or 0.0]) for norm in of.clip_norms]

    def groups(self, members: Sequence[int], batch: int) -> list[list[int]]:
        """Each alone: a thread that comes late, or is put aside, leaves more of them to the others."""
        return [[n] for n in members]

    def make(self, members: Sequence[int], steps: Steps) -> None:
        """Make steps of a member, with the bits that it has alone with one thread."""
        (n,), n_steps = members, len(steps.divisors)
        if self.average is None:
            self._make(n, steps)
            return
        for start in range(n_steps):
            self._make(n, steps.part(start, start + 1))
            self.average.take_of(n, steps.number + start + 1)

    def _make(self, n: int, steps: Steps) -> None:
        optimizer, rule, own = self.optimizer.each[n], self.rules[n], steps.of(n)
        t = self.optimizer.t + steps.n_before - self.optimizer.behind[n]
        gradient = np.empty_like(optimizer.parameters.flat)
        values = np.empty((*steps.values.shape[:2], 1), dtype=gradient.dtype)
        on_cpu.by_one_thread(
            self.plans[n],
            self.clip_norms[n],
            on_cpu.drops_of([alone(own.more.dropout, n)], own.more),
            on_cpu.told_of_rule(
                rule, optimizer, gradient, rule.numbers(t + 1, own.rates[:, 0], own.more.decays)
            ),
            on_cpu.as_read(own.rows, has_labels=self.has_labels),
            own.batch,
            on_cpu.scales_of(own.divisors, self.reduction),
            values,
        )
        steps.values[..., n] = values[..., 0]


class CompiledMemberStep(MemberStep):
    """Steps of members that are compiled from a certain one on, where all of them can be."""

    def __init__(self, of: Members) -> None:
        super().__init__(of)
        objective, self.average = of.objective, of.average
        self.first_compiled = on_cpu.first_compiled_of(objective) // objective.n
        self.is_possible = objective.ranks is None
        self.may_be_together = of.average is None and of.optimizer.groups is None
        self.maker: OneByOne | SideBySide | None = None
        self.n_threads = min(objective.n, on_cpu.n_threads())

    def _turn(self, number: int, batch: int, *, has_own_rows: bool) -> OneByOne | SideBySide | None:
        """What makes steps of so many rows, where the one of this number is compiled."""
        if self.maker is None and self.is_possible and number >= self.first_compiled:
            if compiled.problem() is None:
                n_weights = self.rules.parameters.n_weights
                may_be = self.may_be_together and not has_own_rows
                is_tiny = may_be and pays(n_weights, batch, self.members.n)
                self.maker = (self._side_by_side() if is_tiny else None) or self._one_by_one()
            self.is_possible = self.maker is not None
        return self.maker

    def _alone(self, n: int) -> Objective:
        """A member's objective."""
        members = self.members
        loss, dropout = alone(members.loss, n), alone(members.dropout, n)
        return Objective(members.network.each()[n], loss, self._penalty(n), dropout, members.reduction)

    def _penalty(self, n: int) -> Regularizer | None:
        """A member's penalty; of 0, where others have one."""
        penalty = self.members.regularizer
        return (penalty.penalties[n] or ElasticNet()) if isinstance(penalty, EachPenalty) else penalty

    def _side_by_side(self) -> SideBySide | None:
        """One call for many members, where they differ in numbers alone."""
        rules = [each.rule for each in self.rules.each]
        known = {programs.steps_of(rule) for rule in rules}
        members = self.members
        own = [(alone(members.loss, n), self._penalty(n)) for n in range(members.n)]
        is_possible = len(known) == 1 and None not in known
        plan = on_cpu.plan_of(self._alone(0), own) if is_possible else None
        return None if plan is None else SideBySide(plan, self.of)

    def _one_by_one(self) -> OneByOne | None:
        """A step of each member alone, by one thread."""
        if self.rules.frozen:
            return None
        plans, rules = [], list[on_cpu.CompiledRule]()
        for n, optimizer in enumerate(self.rules.each):
            plan = on_cpu.plan_of(self._alone(n))
            rule = rules[0] if rules and self.rules.is_one_rule else on_cpu.compiled_rule(optimizer)
            if plan is None or rule is None:
                return None
            plans.append(plan)
            rules.append(rule)
        return OneByOne(plans, rules, self.of)

    def at_once(self, block: Block, first: int, most: int, rates: Rates) -> int:
        """Make the updates of some of a block's batches; return how many were made."""
        if block.rows is None:
            return 0
        maker = self._turn(rates.history.step, block.batch_size, has_own_rows=block.rows.x.ndim == 3)
        if maker is None:
            return 0
        batch, losses = block.batch_size, self.members.losses
        running = np.flatnonzero(losses.running).tolist()
        work = batch * self.rules.parameters.size * -(-len(running) // self.n_threads)
        most = min(most, max(1, on_cpu.MOST_WORK // work), max(1, MOST_OF_EACH // self.members.n))
        divisors = self.divisors_ahead(block, first, most)
        if not len(divisors):
            return 0
        rates.ahead(len(divisors))
        rows = slice(first * batch, (first + len(divisors)) * batch)
        values = np.zeros((len(divisors), 1 + losses.has_penalty, self.members.n))
        chunk = block.rows.part(rows)
        more = rates.more_ahead(len(divisors))
        number, own_rates = rates.history.step, self.rates.ahead_of_each(len(divisors))
        steps = Steps(number, 0, chunk, batch, own_rates, divisors, more, values)
        self._deal_out(maker.make, maker.groups(running, batch), steps)
        losses.extend(values.reshape(-1, self.members.n), divisors)
        self.rules.t += len(divisors)
        if self.average is not None:
            self.average.latest = number + len(divisors)
        return len(divisors)

    def _deal_out(
        self, make: Callable[[Sequence[int], Steps], None], groups: Sequence[Sequence[int]], steps: Steps
    ) -> None:
        """Have each core make the steps of some groups: in parts, where they do not go up in the cores."""
        n_threads, n_steps = min(self.n_threads, len(groups)), len(steps.divisors)
        n_parts = n_threads if len(groups) % n_threads else 1
        ends = [n_steps * part // n_parts for part in range(n_parts + 1)]
        tasks, earlier = list[_Task](), [_DONE] * len(groups)
        for start, stop in itertools.pairwise(ends):
            for n, group in enumerate(groups):
                tasks.append(_Task(group, steps.part(start, stop), earlier[n], threading.Event()))
                earlier[n] = tasks[-1].is_over
        with blas.computing():
            together([functools.partial(_work, make, iter(tasks))] * n_threads)


class _Task(NamedTuple):
    """Steps of a group, to be made when those before them are over, which another thread has begun."""

    group: Sequence[int]
    steps: Steps
    before: threading.Event
    is_over: threading.Event


_DONE = threading.Event()
_DONE.set()


def _work(make: Callable[[Sequence[int], Steps], None], tasks: Iterator[_Task]) -> None:
    """Make one task after the other that no other thread has taken; after an error none is left."""
    for task in tasks:
        task.before.wait()
        try:
            if len(task.steps.divisors):
                make(task.group, task.steps)
        except BaseException:
            for left in tasks:
                left.is_over.set()
            raise
        finally:
            task.is_over.set()
