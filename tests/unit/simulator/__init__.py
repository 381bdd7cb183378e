"""The simulated exchange, part by part; `client` is what the tests speak to it with."""
