"""A simulated Coinbase Exchange that a client cannot tell from the real one."""
