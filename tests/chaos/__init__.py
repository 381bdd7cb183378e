"""Failure as a test: the whole stack while everything around and in it fails; `docs/chaos.md`."""
