"""Tests of the Coinbase adapters' pure parts."""
