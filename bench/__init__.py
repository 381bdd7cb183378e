"""Benchmarks: each measures one budget, checks its own output and merges bench/results.json."""
