"""Unit tests of streaming."""
