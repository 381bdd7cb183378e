"""Contracts that every room shares: messages, subjects, records and settings.

Nothing here does I/O or knows a venue. Everything else may import this package; it imports
nothing of the project.
"""
