"""Profilers, one file each. Each runs as a separate pass in a fresh process.

Passes are never combined: profilers disturb each other, and all of them disturb the clock. Latency is therefore
measured in a pass without a profiler.
"""
