"""What came out of a training on a table, as JSON values."""

from typing import Any

from mlp_xp.tables.advice import Run, advice


def result_of(run: Run) -> dict[str, Any]:
    """Metrics beside baselines, advice, and how a training of at least one epoch ended."""
    history, backend = run.history, run.model.network.backend
    return {
        **run.found.description(),
        "advice": advice(run),
        "epochs": len(history.train_losses),
        "best_epoch": history.best_epoch or None,
        "train_loss": history.train_losses[-1],
        "validation_loss": history.validation_losses[-1] if history.validation_losses else None,
        "stopped": run.stopped,
        "seconds": history.seconds,
        "device": backend.name,
        "dtype": backend.dtype_name,
    }
