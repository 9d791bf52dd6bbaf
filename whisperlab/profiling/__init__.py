"""Profilers, one file each, every one a pass of its own in a fresh process.

Passes are never combined: profilers disturb each other and all of them disturb the clock, so latency is
taken in a pass without any.
"""
