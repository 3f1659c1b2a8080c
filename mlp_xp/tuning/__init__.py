"""Finding the settings that suit a table: random search, and the worse half dropped as epochs go by."""
