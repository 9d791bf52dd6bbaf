"""Other recognisers beside whisperlab: each installed into an environment of its own, run by the clock, and scored."""

from whisperlab.experiments.systems.comparison import CONTROLS, COSTS, MORE, RATES, compare, readable
from whisperlab.experiments.systems.environments import SYSTEMS, System, install, select

__all__ = ["CONTROLS", "COSTS", "MORE", "RATES", "SYSTEMS", "System", "compare", "install", "readable", "select"]
