"""What is done with tables and files in Python, as the command line does it."""
