"""The difficulty dial: speech whose blocks of a language are as short, and as rare, as one chooses.

`mixed_scenes` makes the speech and `grid` all points of the dial; `python -m benchmarks.difficulty` runs the
transcriber on them. `benchmarks/difficulty/cuts.py` found the places where prompts are cut.
"""

from benchmarks.difficulty.scenes import Point, mixed_scenes

__all__ = ["Point", "mixed_scenes"]
