"""Ranks that train together compare once, before the first step, what each of them was given."""

import hashlib
import re
from collections.abc import Mapping

from mlp_xp.machine.data_parallel import Ranks
from mlp_xp.network import Network, activation_name
from mlp_xp.rows.fingerprint import fingerprint
from mlp_xp.rows.source import Source

LONGEST = 80
"""Characters in which a setting is told; what takes more is known by its checksum."""


def refuse_differences(
    ranks: Ranks, network: Network, sources: Mapping[str, Source | None], given: Mapping[str, object]
) -> None:
    """Raise ValueError on all ranks where one has another network, other rows or other settings than rank 0.

    Weights are those of rank 0 anyway. All rows are read once, but those of streams, which may be drawn.
    """
    settings = {
        "layer_sizes": network.layer_sizes,
        "activations": [activation_name(each) for each in network.activations],
        "bias": bool(network.parameters.biases),
        "dtype": network.backend.dtype_name,
        "members": network.members,
        **given,
    }
    ranks.refuse_differences(
        {name: _told(value) for name, value in settings.items()}
        | {name: None if source is None else _rows(source) for name, source in sources.items()}
    )


def _told(value: object) -> str:
    """A setting as a text that is the same in every process."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= LONGEST else f"something long ({_short(text)})"


def _rows(source: Source) -> str:
    """Rows as a text: how many, and a checksum of them."""
    sizes = f"{source.n_rows:,} rows, {source.n_features} columns, {source.n_targets} targets"
    return sizes if source.order is not None else f"{sizes} ({_short(fingerprint(source))})"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
