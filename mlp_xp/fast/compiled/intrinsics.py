"""What an intrinsic of Numba is told, none of which has types that mypy knows.

First types: Numba's context of typing, and those of the arguments. Then, to generate code, the target's
context, LLVM's builder, the signature that was chosen, and LLVM's values of the arguments.
"""

from typing import Any

Typing = Any
Type = Any
Context = Any
Builder = Any
Signature = Any
Values = Any
