"""The log abstraction and its implementations."""
