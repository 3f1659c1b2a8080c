"""Kernels, matrix products and captured steps on a CUDA GPU; CuPy is used here and in `machine.cuda`."""
