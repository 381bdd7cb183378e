"""Tests, on real parts: each starts the servers it needs and stops them."""
