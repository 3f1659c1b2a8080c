"""How exactly a CUDA GPU multiplies matrices of float32."""

import os

TF32_VARIABLE = "CUPY_TF32"
"""CuPy reads it at its first product of float32 matrices; ours read it when their handle is made."""


def allow_tf32() -> None:
    """Let products of float32 matrices round their inputs to 10 bits, several times faster on tensor cores.

    To be called before the GPU is first used.
    """
    os.environ[TF32_VARIABLE] = "1"


def tf32_is_allowed() -> bool:
    """Whether they do."""
    return os.environ.get(TF32_VARIABLE, "0") not in ("", "0")
