"""What a run needs beside its steps."""
