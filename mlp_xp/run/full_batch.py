"""L-BFGS through SciPy, on the objective over all rows, accumulated chunk by chunk.

Memory depends on the chunk and not on the data, so that it runs on streams too.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from mlp_xp.machine import blas, threads
from mlp_xp.machine.array_api import to_host
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS
from mlp_xp.rows.batch import Batch, Block
from mlp_xp.rows.loader import Loader
from mlp_xp.run.micro_batches import within_memory
from mlp_xp.run.state import Pass, Training


class AllRows:
    """The rows of a loader for a search over all of them; gathered once, where they are one block."""

    def __init__(self, objective: Objective, loader: Loader) -> None:
        self.objective, self.loader = objective, loader
        self._blocks: Generator[Block] | None = None
        self._block: Block | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Their batches."""
        if self._block is None:
            self._blocks = self.loader.blocks(0, self.objective.network.backend, **self.objective.targets)
            for block in self._blocks:
                yield from map(block.batch, range(block.n_batches))
                if block.rows is not None and block.n_batches == self.loader.steps_per_epoch:
                    self._block = block  # valid as long as its generator waits
                    return
        else:
            self.loader.source.check_unchanged()
            yield from map(self._block.batch, range(self._block.n_batches))

    def forget(self) -> None:
        """Let go of what is gathered."""
        if self._blocks is not None:
            self._blocks.close()
        self._blocks = self._block = None

    def value_and_gradient(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """J and ∂J/∂w, float64, at a host vector that becomes the parameters."""
        objective, network = self.objective, self.objective.network
        network.parameters.flat[...] = network.backend.asarray(vector)

        def over_rows() -> float:
            objective.losses.start()
            for batch in self:
                objective.differentiate(batch)
            return objective.losses.objective()

        def forget() -> None:
            self.forget()
            objective.forget_buffers()

        with network.backend.runtime.working():
            loss = within_memory(self.loader, network, over_rows, forget)
        return loss, to_host(objective.gradient.flat).astype(np.float64)


def scipy_minimize() -> Any:
    """SciPy's `minimize`."""
    try:
        from scipy.optimize import minimize
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'L-BFGS needs SciPy: pip install "mlp-xp[sklearn]"', name=error.name
        ) from error
    return minimize


def minimise(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    rule: LBFGS,
    max_iterations: int,
    after_iteration: Callable[[np.ndarray, float], None],
) -> str:
    """Run SciPy's L-BFGS-B without bounds; return why it ended.

    Value and gradient come from `evaluate`, whose vector SciPy writes on later. `after_iteration` is told of
    every iterate and its value; StopIteration ends the search there.
    """
    search = scipy_minimize()

    def tell(intermediate_result: Any) -> None:  # SciPy goes by the name
        after_iteration(intermediate_result.x, float(intermediate_result.fun))

    with blas.computing():
        result = search(
            evaluate,
            start,
            jac=True,
            method="L-BFGS-B",
            callback=tell,
            options={
                "maxcor": rule.n_corrections,
                "maxiter": max_iterations,
                "maxfun": rule.max_evaluations,
                "gtol": rule.gradient_tolerance,
                "ftol": rule.loss_tolerance,
            },
        )
    return str(result.message)


class Search:
    """The method that searches over the objective of all rows: each iteration counts as an epoch of one step.

    Raises ModuleNotFoundError: SciPy is not installed.
    """

    forgets: str | None = "L-BFGS goes on from its weights with an empty memory of gradients."

    def __init__(self, rule: LBFGS) -> None:
        scipy_minimize()
        self.rule = rule

    def passes(self, training: Training) -> Generator[Pass]:
        """Yield the objective after each iteration, with the network's parameters at that iterate.

        With the last one comes why SciPy stopped: each is held back until the next one is there. Between two
        evaluations the weights are those of the last one that was yielded: there a run can be left.

        SciPy calls back; a generator is called. So SciPy runs in a thread of its own that only ever waits: it
        asks for values and gradients, and all of them are computed here, in the caller's thread.
        """
        history, parameters = training.history, training.parameters
        rows = AllRows(training.objective, training.loader)
        start = parameters.to_host().astype(np.float64)
        questions: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        iterates: list[tuple[np.ndarray, float]] = []  # that SciPy told of since it asked last
        n_left = history.max_epochs - len(history.train_losses)

        def ask(vector: np.ndarray) -> Any:
            questions.put(("evaluate", vector.copy()))
            answer = answers.get()
            if answer is None:
                raise StopIteration
            return answer

        def tell(vector: np.ndarray, value: float) -> None:
            iterates.append((vector.copy(), value))

        def work() -> None:
            try:
                questions.put(("done", minimise(ask, start, self.rule, n_left, tell)))
            except BaseException as error:  # whatever it is, it belongs to the caller's thread
                questions.put(("failed", error))

        thread = threading.Thread(target=work, name="mlp_xp L-BFGS", daemon=True)
        with threads.beside(thread):
            thread.start()
        at, found = start, None

        def iteration(stopped: str | None) -> Pass:
            nonlocal at
            at, value = (start, rows.value_and_gradient(start)[0]) if found is None else found
            parameters.flat[...] = parameters.backend.asarray(at)
            history.step = len(history.train_losses) + (found is not None)
            return value, stopped

        try:
            while True:
                with threads.beside(thread):
                    what, content = questions.get()
                while iterates:
                    if found is not None:
                        yield iteration(None)
                        training.after_steps()
                    found = iterates.pop(0)
                if what == "evaluate":
                    try:
                        found_there = rows.value_and_gradient(content)
                        for part in training.optimizer.frozen:
                            found_there[1][part] = 0.0
                    finally:  # also where Ctrl-C ends it
                        parameters.flat[...] = parameters.backend.asarray(at)
                    answers.put(found_there)
                    training.after_steps()
                elif what == "failed":
                    raise content
                else:
                    yield iteration(f"L-BFGS ended: {content}")
                    return
        finally:
            answers.put(None)
            thread.join()
            rows.forget()
