"""What a training runs on: array libraries and devices, the BLAS and its threads, processes, files."""
