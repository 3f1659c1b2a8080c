"""How much faster are all derivatives with memoisation than without, and for how much more memory?

Both sides compute ∂L/∂w_ij^k for every weight of the same network, at the same point (one row, float64,
tanh, squared loss), from x on; they are compared to 1e-10 before anything is timed.

With: mlp_xp's forward and backprop. Every δ is computed once and serves all weights before it.

Without: an implementation of its own, in this file. The derivative of each weight is the sum over all
paths from its unit j of layer k to the outputs,

    ∂L/∂w_ij^k = a_i^{k−1} Σ over paths  Π_{edges (u, m) on the path} ∂z_m/∂z_u · ∂L/∂z_end

with ∂z_m/∂z_u = f'(z_u) w_um. What is computed once here too: the forward values a and the local
derivative ∂z_m/∂z_u of each edge. What is recomputed: the products along the paths. They are formed and
summed again for every weight w_ij^k, although the paths from j on are the same for all i, and again for
every layer k, although the paths from layer k go on as those from layer k + 1: the sums over what is left
of a path, which are the δ that backprop memoises, are never kept. Paths with a common beginning share its
product, as a recursion's would.

The paths of many weights are walked at once, as arrays in blocks that stay in a core's cache, so that the
ratio is one of algorithms and not of Python's loops against NumPy's.

How each grows: without, with the number of paths n_0 n_1 … n_L, the product of the widths (that many
end in the first layer's weights, and the later layers add less); with, with Σ n_{l−1} n_l, the sum of
products of neighbouring widths, which is the number of weights.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.harness import results
from bench.harness.measure import allocated_bytes, paired_medians, waiter
from bench.harness.results import Result
from mlp_xp import Network
from mlp_xp.backprop import backprop
from mlp_xp.forward import Memo, forward
from mlp_xp.losses import SquaredError
from mlp_xp.machine.array_api import Array, to_host
from mlp_xp.machine.array_api import backend as find_backend

Shapes = list[tuple[str, tuple[int, ...]]]
"""What is varied, and units per layer."""

DEPTHS: Shapes = [("depth", (4,) * n) for n in (3, 5, 7, 9, 11, 13)]
WIDTHS: Shapes = [("width", (n,) * 4) for n in (4, 8, 16, 32, 64, 96)]
NETWORKS: Shapes = [("network", sizes) for sizes in ((4, 3, 2, 1), (10, 32, 32, 1), (784, 512, 512, 10))]
ONLY_WITH: Shapes = [("width", (n,) * 4) for n in (256, 1024, 2048)]
"""Too many paths to walk; they show how backprop grows once it is more than the cost of its calls."""

QUICK: Shapes = [("depth", (3,) * 3), ("depth", (3,) * 5), ("width", (2,) * 4), ("width", (5,) * 4)]
QUICK += [("network", (4, 3, 2, 1))]

BLOCK = 16_384
"""Path products at a time: 128 kB of float64, within a core's second-level cache."""

N_ROWS = 1


class WithoutMemo:
    """All derivatives of L = Σ (y − z_L)² by walking every path; tanh in the hidden layers, no biases.

    Parameters
    ----------
    network : Network
        Whose weights to use; read.
    """

    def __init__(self, network: Network) -> None:
        self.xp = network.backend.xp
        self.weights = network.parameters.weights

    def derivatives(self, x: Array, y: Array) -> list[Array]:
        """∂L/∂W_1 … ∂L/∂W_L at the rows x with targets y."""
        xp, weights = self.xp, self.weights
        inputs, edges, z = [x], [], x @ weights[0]
        for following in weights[1:]:
            a = xp.tanh(z)
            slope = 1.0 - a * a
            edges.append(slope[:, None, :] * following.T[None, :, :])  # [row, m, u]: ∂z_m/∂z_u
            inputs.append(a)
            z = a @ following
        delta = 2.0 * (z - y)  # ∂L/∂z where the paths end
        return [self.of_layer(a, edges[k:], delta) for k, a in enumerate(inputs)]

    def of_layer(self, a: Array, edges: list[Array], delta: Array) -> Array:
        """∂L/∂w_ij of one layer: a (n_rows, n_in) goes into it, `edges` are those of the layers after it."""
        xp, (n_rows, n_in) = self.xp, a.shape
        if not edges:  # the last layer: from unit j there is one path, of no edge
            return xp.sum(a[:, :, None] * delta[:, None, :], axis=0)
        n_next, n_units = edges[0].shape[1:]
        # Many weights at once, for long inner loops; these products are read once, a few units at a time.
        n_weights = 8 * BLOCK // (n_rows * n_next)
        units = max(1, min(n_units, n_weights))
        inputs = n_weights // units
        columns = []
        for some_j in slices(n_units, units):
            first = edges[0][:, :, some_j, None]
            rows = []
            for some_i in slices(n_in, inputs):
                p = first * a[:, None, None, some_i]  # (row, m, j, i): ∂z_m/∂z_j · a_i
                of_weights = xp.reshape(p, (n_rows, n_next, 1, -1))
                sums = self.sum_over_paths(of_weights, edges[1:], delta)
                rows.append(xp.reshape(sums, p.shape[2:]).T)
            columns.append(xp.concat(rows, axis=0))
        return xp.concat(columns, axis=1)

    def sum_over_paths(self, p: Array, edges: list[Array], delta: Array) -> Array:
        """Walk on from the ends of unfinished paths; one sum for each weight.

        Parameters
        ----------
        p : array (n_rows, n_units, n_paths, n_weights)
            The products so far of the paths that have come to each unit, for each weight. The axes that
            grow are the last ones: elementwise products are fast along them.
        edges : list of arrays (n_rows, n_next, n_units)
            ∂z_m/∂z_u of the layers to come.
        delta : array (n_rows, n_outputs)
            ∂L/∂z where the paths end.

        Returns
        -------
        array (n_weights,)
        """
        xp = self.xp
        if not edges:
            return xp.sum(p * delta[:, :, None, None], axis=(0, 1, 2))
        n_rows, n_units, n_paths, n_weights = p.shape
        edge, n_next = edges[0], edges[0].shape[1]
        from_a_unit = n_rows * n_next * n_paths * n_weights
        if n_units > 1 and from_a_unit * n_units > BLOCK:
            return sum(
                self.sum_over_paths(p[:, some, ...], [edge[:, :, some], *edges[1:]], delta)
                for some in slices(n_units, BLOCK // from_a_unit)
            )
        if n_weights > 1 and from_a_unit > BLOCK:
            parts = [p[..., some] for some in slices(n_weights, BLOCK * n_weights // from_a_unit)]
            return xp.concat([self.sum_over_paths(part, edges, delta) for part in parts])
        longer = edge[:, :, :, None, None] * p[:, None, ...]
        longer = xp.reshape(longer, (n_rows, n_next, n_units * n_paths, n_weights))
        return self.sum_over_paths(longer, edges[1:], delta)


def slices(n: int, length: int) -> Iterator[slice]:
    """Slices of that length, or of 1 at least, that cover n."""
    for start in range(0, n, max(1, length)):
        yield slice(start, min(start + max(1, length), n))


class WithMemo:
    """The same derivatives by mlp_xp's forward and backprop.

    Parameters
    ----------
    network : Network
        Read.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.loss = SquaredError()
        self.memo = Memo(network, N_ROWS)
        self.gradient = network.parameters.zeros_like()

    def derivatives(self, x: Array, y: Array) -> list[Array]:
        """∂L/∂W_1 … ∂L/∂W_L, views of a buffer that the next call overwrites."""
        delta = forward(self.network, x, self.memo)
        self.loss(self.network.backend, delta, y, None)
        backprop(self.network, self.memo, delta, self.gradient)
        return self.gradient.weights


def tanh_network(sizes: tuple[int, ...], device: Any) -> Network:
    """A network without biases, in float64."""
    return Network(sizes, activation="tanh", bias=False, device=device, dtype="float64")


def memo_bytes(sizes: tuple[int, ...]) -> int:
    """Bytes that the memo takes beyond what a forward pass that remembers nothing takes, on the host."""
    network = tanh_network(sizes, "cpu")
    kept = allocated_bytes(lambda: Memo(network, N_ROWS))
    return kept - allocated_bytes(lambda: Memo(network, N_ROWS, way_back=False))


def name_of(sizes: tuple[int, ...]) -> str:
    """4-3-2-1, or 13 × 4 for 13 layers of 4 units."""
    return "-".join(map(str, sizes)) if len(set(sizes)) > 1 else f"{len(sizes)} × {sizes[0]}"


def answer(quick: bool, device: str) -> Result:
    """Compare and time both ways on every network."""
    backend = find_backend(device, "float64")
    seconds = 0.0 if quick else 0.5
    shapes = QUICK if quick else DEPTHS + WIDTHS + NETWORKS + ONLY_WITH
    rows, worst = [], 0.0
    for varied, sizes in shapes:
        network = tanh_network(sizes, backend)
        generator = np.random.default_rng(1)
        x = backend.asarray(generator.standard_normal((N_ROWS, sizes[0])))
        y = backend.asarray(generator.standard_normal((N_ROWS, sizes[-1])))
        with_memo, without = WithMemo(network), WithoutMemo(network)
        calls = {"with": functools.partial(with_memo.derivatives, x, y)}
        if (varied, sizes) not in ONLY_WITH:
            calls["without"] = functools.partial(without.derivatives, x, y)
            worst = max(worst, difference(without.derivatives(x, y), with_memo.derivatives(x, y)))
        medians = paired_medians(calls, seconds=seconds, wait=waiter(backend))
        slow, fast = medians.get("without"), medians["with"]
        n_paths = math.prod(sizes)
        extra = memo_bytes(sizes)
        rows.append(
            {
                "varied": varied,
                "network": name_of(sizes),
                "paths Π n": n_paths,
                "weights Σ n n'": network.n_weights,
                "without memo (µs)": slow and 1e6 * slow,
                "with memo (µs)": 1e6 * fast,
                "speed-up": slow and slow / fast,
                "without (ns a path)": slow and 1e9 * slow / n_paths,
                "memo (bytes)": extra,
                "memo ÷ weights": extra / (8 * network.n_weights),
            }
        )
    return Result(
        question=str(__doc__).splitlines()[0],
        rows=rows,
        notes=notes(rows, worst),
        curves={"units": {name_of(sizes): list(sizes) for _, sizes in shapes}},
        device=backend.name,
    )


def difference(without: list[Array], with_memo: list[Array]) -> float:
    """The largest difference of two derivatives, in units of the layer's largest derivative.

    Raises
    ------
    RuntimeError
        It is more than 1e-10: then there is nothing to time.
    """
    worst = 0.0
    for one, other in zip(map(to_host, without), map(to_host, with_memo), strict=True):
        worst = max(worst, float(np.abs(one - other).max() / np.abs(one).max()))
    if not worst <= 1e-10:
        raise RuntimeError(f"the derivatives with and without memoisation differ by {worst:.3g}.")
    return worst


def notes(rows: list[dict[str, Any]], worst: float) -> list[str]:
    """The growth laws beside what was measured."""
    found = [f"The same derivatives: they differ by at most {worst:.1g} of the layer's largest one."]
    for column, law, least in (
        ("without memo (µs)", "paths Π n", 50_000),
        ("with memo (µs)", "weights Σ n n'", 100_000),
    ):
        points = [(row[law], row[column]) for row in rows if row[column] and row[law] >= least]
        if len(points) >= 3:
            n, time = np.log(np.transpose(points))
            exponent = np.polyfit(n, time, 1)[0]
            found.append(
                f"Growth, {column.removesuffix(' (µs)')}: time ∝ ({law})^{exponent:.2f} over the "
                f"{len(points)} networks where that is at least {least:,} (law: exponent 1); below, "
                "the cost of the calls hides it."
            )
    found.append(
        "memo: bytes that forward and backprop keep for one row (every a, two buffers for δ) beyond a "
        "forward pass that remembers nothing; measured on the host."
    )
    return found


def draw(result: Result, figure: Any) -> None:
    """Time over depth and over width with the laws dashed, and speed-up over memory."""
    deeper, wider, bought = figure.subplots(1, 3)
    units = result.curves["units"]
    _draw_growth(deeper, result, "depth", lambda name: len(units[name]) - 1)
    _draw_growth(wider, result, "width", lambda name: units[name][0])
    deeper.legend(fontsize=7)
    deeper.set(title="deeper", xlabel="layers of weights (4 units each)")
    wider.set(title="wider", xlabel="units a layer (3 layers of weights)")
    wider.set_xscale("log", base=2)
    for varied, marker, label in (
        ("depth", "o", "deeper"),
        ("width", "s", "wider"),
        ("network", "^", "other networks"),
    ):
        rows = [r for r in result.rows if r["varied"] == varied and r["speed-up"] is not None]
        memory, speed_up = [r["memo (bytes)"] for r in rows], [r["speed-up"] for r in rows]
        bought.plot(memory, speed_up, marker, label=label)
        if varied == "network":
            for row, *where in zip(rows, memory, speed_up, strict=True):
                bought.annotate(
                    row["network"],
                    where,
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
    bought.set(title="what the memory buys", xlabel="the memo (bytes)", ylabel="speed-up (×)")
    bought.set(xscale="log", yscale="log")
    bought.margins(x=0.25, y=0.1)
    bought.grid(alpha=0.3)
    bought.legend(fontsize=7)


def _draw_growth(ax: Any, result: Result, varied: str, position: Callable[[str], int]) -> None:
    """What was measured, and the law through its last point."""
    for column, law, color in (
        ("without memo (µs)", "paths Π n", "tab:red"),
        ("with memo (µs)", "weights Σ n n'", "tab:blue"),
    ):
        rows = [r for r in result.rows if r["varied"] == varied and r[column] is not None]
        at, time = [position(r["network"]) for r in rows], [r[column] for r in rows]
        expected = [r[law] * time[-1] / rows[-1][law] for r in rows]
        ax.plot(at, time, "o-", color=color, label=column.removesuffix(" (µs)"))
        ax.plot(at, expected, "--", color=color, alpha=0.6, label=f"law: ∝ {law}")
    ax.set(ylabel="µs for all derivatives of one row", yscale="log")
    ax.grid(alpha=0.3)


if __name__ == "__main__":
    sys.exit(results.main(sys.modules[__name__]))
