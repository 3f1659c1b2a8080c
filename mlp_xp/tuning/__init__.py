"""Finding the settings that suit a table: random search, and the worse half dropped as epochs go by."""

from mlp_xp.tuning.tune import Tuning, tune

__all__ = ["Tuning", "tune"]
