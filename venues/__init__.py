"""How each exchange speaks."""
