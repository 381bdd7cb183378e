"""Recorded histories, and the test that today's code still fits them."""
