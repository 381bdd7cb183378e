"""Tests of the lake's encoding."""
