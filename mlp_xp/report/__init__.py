"""What people look at: a page about a training, a picture of its curves, a log, TensorBoard's event files."""
