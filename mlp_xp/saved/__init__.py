"""What is written to disk and read again: model files, checkpoints, ONNX."""
