"""Durable workflows, one a file, deterministic; their side effects are in `activities`."""
