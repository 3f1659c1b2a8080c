"""How often something is done: every so many seconds, epochs or steps."""

import dataclasses
import re

from mlp_xp.settings.spelling import spelled

SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


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
    def parse(cls, text: str, name: str = "checkpoint_every") -> "Interval":
        """Read "5min", "30s", "1h", "1epoch", "2epochs" or "500steps".

        Raises
        ------
        ValueError
            It is none of these; the message names the field.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h|epochs?|steps?)", text.strip())
        if match is None or float(match[1]) <= 0:
            raise ValueError(
                f"{spelled(name)}={text!r} must be a time, epochs or steps: 5min, 1epoch, 500steps."
            )
        if match[2] in SECONDS:
            return cls(float(match[1]) * SECONDS[match[2]], "seconds")
        return cls(float(match[1]), "epochs" if match[2].startswith("epoch") else "steps")
