"""The hot path: venue frames in, canonical messages out."""
