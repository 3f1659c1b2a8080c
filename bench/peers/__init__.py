"""What the other libraries do, each in a process of its own."""
