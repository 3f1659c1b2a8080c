"""L-BFGS through SciPy, on the objective over all rows, accumulated chunk by chunk.

Memory depends on the chunk and not on the data, so that it runs on streams too.
"""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from mlp_xp.machine import blas
from mlp_xp.machine.array_api import to_host
from mlp_xp.objective import Objective
from mlp_xp.optimizers import LBFGS
from mlp_xp.rows.loader import Loader
from mlp_xp.run.micro_batches import within_memory
from mlp_xp.run.state import Pass, Training


def value_and_gradient(objective: Objective, loader: Loader, vector: np.ndarray) -> tuple[float, np.ndarray]:
    """J and ∂J/∂w, float64, over all rows of a loader, at a host vector that becomes the parameters."""
    network = objective.network
    network.parameters.flat[...] = network.backend.asarray(vector)

    def over_rows() -> float:
        objective.losses.start()
        for batch in loader.batches(0, network.backend, **objective.targets):
            objective.differentiate(batch)
        return objective.losses.objective()

    with network.backend.runtime.working():
        loss = within_memory(loader, network, over_rows, objective.forget_buffers)
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
        objective, loader, history = training.objective, training.loader, training.history
        parameters = objective.network.parameters
        start = parameters.to_host().astype(np.float64)
        asked: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        n_left = history.max_epochs - len(history.train_losses)

        def ask(what: str, content: Any) -> Any:
            asked.put((what, content))
            answer = answers.get()
            if answer is None:
                raise StopIteration
            return answer

        def work() -> None:
            try:
                why = minimise(
                    lambda vector: ask("evaluate", vector.copy()),
                    start,
                    self.rule,
                    n_left,
                    lambda vector, value: asked.put(("iterate", (vector.copy(), value))),
                )
                asked.put(("done", why))
            except BaseException as error:  # whatever it is, it belongs to the caller's thread
                asked.put(("failed", error))

        thread = threading.Thread(target=work, name="mlp_xp L-BFGS", daemon=True)
        thread.start()
        at, found = start, None

        def iteration(stopped: str | None) -> Pass:
            nonlocal at
            at, value = (start, value_and_gradient(objective, loader, start)[0]) if found is None else found
            parameters.flat[...] = parameters.backend.asarray(at)
            history.step = len(history.train_losses) + (found is not None)
            return value, stopped

        try:
            while True:
                what, content = asked.get()
                if what == "evaluate":
                    try:
                        found_there = value_and_gradient(objective, loader, content)
                        for part in training.optimizer.frozen:
                            found_there[1][part] = 0.0
                    finally:  # also where Ctrl-C ends it
                        parameters.flat[...] = parameters.backend.asarray(at)
                    answers.put(found_there)
                    training.after_steps()
                elif what == "iterate":
                    if found is not None:
                        yield iteration(None)
                        training.after_steps()
                    found = content
                elif what == "failed":
                    raise content
                else:
                    yield iteration(f"L-BFGS ended: {content}")
                    return
        finally:
            answers.put(None)
            thread.join()
