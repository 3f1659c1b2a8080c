"""Times as people write them, and how often something is done: every so many seconds, epochs or steps."""

import dataclasses
import math
import re

from mlp_xp.settings.spelling import spelled

_NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"

SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


def seconds(name: str, text: object) -> float:
    """Seconds, from a number with a unit of time or without.

    Examples
    --------
    >>> seconds("time_budget", "10min"), seconds("time_budget", "90")
    (600.0, 90.0)
    """
    match = re.fullmatch(rf"({_NUMBER})\s*(s|sec|min|h)?", str(text).strip())
    amount = float(match[1]) * SECONDS[match[2] or "s"] if match else 0.0
    if not 0 < amount < math.inf:
        raise ValueError(
            f"{spelled(name)}={text!r} must be a time > 0, such as 90s, 10min or 1h; seconds without a unit."
        )
    return amount


@dataclasses.dataclass(frozen=True)
class Interval:
    """After so many seconds, epochs or steps.

    Examples
    --------
    >>> Interval.parse("5min")
    Interval(amount=300.0, unit='seconds')
    >>> Interval.parse("500steps")
    Interval(amount=500.0, unit='steps')
    """

    amount: float = 300.0
    unit: str = "seconds"

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """Read "5min", "30s", "1h", "1epoch", "2epochs" or "500steps".

        Raises ValueError: it is none of these; the message names the field.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h|epochs?|steps?)", text.strip())
        if match is None or not 0 < float(match[1]) < math.inf:
            name = spelled("checkpoint_every")
            raise ValueError(f"{name}={text!r} must be a time, epochs or steps: 5min, 1epoch, 500steps.")
        if match[2] in SECONDS:
            return cls(float(match[1]) * SECONDS[match[2]], "seconds")
        return cls(float(match[1]), "epochs" if match[2].startswith("epoch") else "steps")
