"""One count per connection over all its messages, as Advanced Trade numbers them.

A message is rendered once for all who listen, so its number is filled in at delivery; a message
that a fault takes away has used one up, which is how a client sees the loss.
"""

UNNUMBERED = '"sequence_num":-1'
"""Stands in a rendered message, and in the ground truth, for the number that each connection
gives it."""


def numbered(text: str, number: int) -> str:
    """Return the message with its number; damaged text that has no place for one is left as is."""
    return text.replace(UNNUMBERED, f'"sequence_num":{number}', 1)
