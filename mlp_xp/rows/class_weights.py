"""Class weights that travel with the rows."""

from collections.abc import Callable, Mapping

import numpy as np

from mlp_xp.machine.array_api import Backend
from mlp_xp.rows.source import PASS_BYTES, Source, Taken, Wrapped, passes
from mlp_xp.settings import checks


class ClassWeighted(Wrapped):
    """A source whose sample weights are multiplied by a weight for the row's class.

    The classes, numbers of the one target, have the weights of a mapping, 1 where it names none; or
    "balanced" ones, by which every class has the same total: n_rows / (n_classes · rows of the class),
    counted in one pass over the rows of `counted`. Rows held out weigh what those of training do.

    Raises ValueError: a class number or a weight is negative, or there is more than one target.
    """

    def __init__(
        self, source: Source, class_weight: Mapping[int, float] | str, counted: Source | None = None
    ) -> None:
        if source.n_targets != 1:
            raise ValueError(
                f"class weights need one target of class numbers; this source has {source.n_targets} targets."
            )
        super().__init__(source)
        self.y, self.has_weights = source.y, True
        given = (
            class_weight if isinstance(class_weight, Mapping) else balanced(counted or source, class_weight)
        )
        checks.refuse(
            [checks.whole("class", label, least=0) for label in given]
            + [checks.number(f"class_weight[{label}]", weight, least=0) for label, weight in given.items()]
        )
        if isinstance(class_weight, Mapping) and source.y is not None:
            step = max(1, PASS_BYTES // 8)  # a copy of all would be sorted
            each = [np.unique(source.y[start : start + step]) for start in range(0, len(source.y), step)]
            known = np.unique(np.concatenate(each))
            checks.refuse(
                f"class_weight names class {label!r}, which no row is of; there are {_listed(known)}."
                for label in class_weight
                if label not in known
            )
        self._classes = np.array(sorted(given) or [0])
        self._weights = np.array([given.get(label, 1.0) for label in self._classes.tolist()])

    def rows(self, index: np.ndarray, x: np.ndarray, y: np.ndarray | None, weight: np.ndarray | None) -> None:
        """Fill the arrays; weight with the source's own weight times that of the class."""
        classes = np.empty((len(index), 1)) if y is None and weight is not None else y
        self.source.rows(index, x, classes, weight)
        if weight is not None and classes is not None:
            own = self._of(classes[:, 0])
            weight *= own if weight.ndim == 1 else own[:, None]

    def on_device(self, backend: Backend, *, labels: bool) -> Callable[[np.ndarray], Taken] | None:
        """The source's, where its targets are at hand."""
        take, targets = self.source.on_device(backend, labels=labels), self.y
        if take is None or targets is None:
            return None

        def weighted(index: np.ndarray) -> Taken:
            x, y, _, host_weight = take(index)
            own = self._of(targets[index, 0]) * (1.0 if host_weight is None else host_weight)
            return x, y, backend.asarray(own[:, None]), own

        return weighted

    def _of(self, classes: np.ndarray) -> np.ndarray:
        """The weights of some class numbers."""
        nearest = np.minimum(np.searchsorted(self._classes, classes), len(self._classes) - 1)
        found: np.ndarray = np.where(self._classes[nearest] == classes, self._weights[nearest], 1.0)
        return found


def _listed(classes: np.ndarray) -> str:
    return ", ".join(f"{each:g}" for each in classes[:20].tolist()) + " ..." * (len(classes) > 20)


def balanced(source: Source, given: str = "balanced") -> dict[int, float]:
    """The weights with which every class has the same total, by class number; one pass counts the rows."""
    checks.refuse([checks.one_of("class_weight", given, ("balanced",))])
    counts: dict[int, int] = {}
    for _, _, y, _ in passes(source):
        labels, times = np.unique(y, return_counts=True)
        for label, n in zip(labels.tolist(), times.tolist(), strict=True):
            if label != int(label):
                raise ValueError(
                    f"class_weight needs whole class numbers, but there is a target of {label:g}."
                )
            counts[int(label)] = counts.get(int(label), 0) + n
    return {label: source.n_rows / (len(counts) * n) for label, n in counts.items()}
