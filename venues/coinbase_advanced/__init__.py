"""Coinbase Advanced Trade: wire types, mapping, routing, and what its feed is told."""
