"""Coinbase Exchange: wire types, mapping, feed and REST clients."""
