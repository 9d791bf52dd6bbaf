"""A promised rate of false switches: the evidence for a change, and how much of it a rate takes.

The *evidence* for a change is the log-odds of the new language against the likeliest other one, at most `MOST` in size,
times the seconds that a frame counts for, summed since the best path went to the new language.

`least_evidence` looks up a rate in ``false_switches.json``, which `benchmarks/false_switches.py` makes by conformal
risk control (Angelopoulos et al. 2022, arXiv 2208.02814): ``n`` recordings of one language, of ``hours`` each, with
``false`` switches to languages that are not spoken, of which at most ``most`` count in a recording, promise
``(false + most) / (n + 1) / hours`` per hour in expectation over further recordings of the same kind.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisperlab.streaming.language_id import Posterior
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.json_values import Json
from whisperlab.util.options import Options, option

MOST = 10.0  # log-odds of a frame, in size: one frame decides nothing
TABLE = Path(__file__).with_suffix(".json")
PROMISES = json.loads(TABLE.read_text(encoding="utf-8"))


@dataclass(slots=True, frozen=True)
class SwitchOptions(Options, group="switch"):
    """When a change of language that was found is acted on."""

    false_switches_per_hour: float | None = option(
        None,
        "promised rate of switches to languages that are not spoken: a change waits for the evidence that it takes. "
        "For base and the default options; docs/results.md has the cost. None: nothing is promised",
        0,
        exclusive=True,
    )


def least_evidence(rate: float | None, n_languages: int) -> float | None:
    """The evidence that promises a rate; None without one. ConfigurationError if the recordings cannot promise it."""
    if rate is None:
        return None
    nothing: Json = {"hours": 0, "promised": ()}
    group = next((one for one in PROMISES["groups"] if n_languages <= one["languages"]), nothing)
    kept = [evidence for evidence, promised in group["promised"] if promised <= rate]
    if not kept:
        lowest = min((promised for _, promised in group["promised"]), default=math.inf)
        speech = f"{group['hours']:g} hours of speech with {n_languages} languages allowed"
        limit = f"{speech} cannot promise {rate:g}; the lowest rate is {lowest:g}"
        raise ConfigurationError(f"switch.false_switches_per_hour: {limit}")
    return float(min(kept))


class Evidence:
    """The evidence for the language that the best path ends in; 0 while that is the current one."""

    def __init__(self) -> None:
        self._change: tuple[int | None, int] = (None, 0)  # the current language and the new one
        self.value = 0.0

    def add(self, current: int | None, state: int, posterior: Posterior, frame_s: float) -> None:
        """Take a frame: what it counts for, and the posterior of the window that holds most of the new speech."""
        if self._change != (current, state):
            self._change, self.value = (current, state), 0.0
        if state != current and len(posterior) > 1:
            odds = math.log(max(posterior[state], 1e-9) / max(np.delete(posterior, state).max(), 1e-9))
            self.value += frame_s * min(max(odds, -MOST), MOST)
