"""How figures are measured, kept and drawn."""
