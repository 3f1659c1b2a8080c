"""How what users give is checked, and found by its name."""
