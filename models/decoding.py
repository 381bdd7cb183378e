"""What decoding JSON from outside may raise, in one place.

`msgspec.DecodeError` covers what is no JSON or not of the wanted type; text that is no UTF-8 and
nesting that is too deep raise errors of Python's own.
"""

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
