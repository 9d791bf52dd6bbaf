"""Where the time goes, as a tree of calls, by pyinstrument.

It samples every millisecond instead of following each call, so functions called often look no slower than they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whisperlab.profiling.workload import Workload
from whisperlab.util.errors import MissingDependencyError

INTERVAL_S = 0.001
NARROW = 100  # characters a line of the tree may have


@dataclass(slots=True, frozen=True)
class CpuProfile:
    """The tree as text, and as a page of its own that unfolds."""

    sampled_s: float
    samples: int
    tree: str
    page: str = field(repr=False)

    def describe(self) -> str:
        """The tree for a person."""
        return f"call tree (pyinstrument, {self.samples} samples in {self.sampled_s:.2f} s)\n{self.tree}"


def measure(workload: Workload) -> CpuProfile:
    """Stream the recording under pyinstrument, started once the model is loaded."""
    try:
        from pyinstrument import Profiler
        from pyinstrument.renderers import HTMLRenderer
    except ImportError as error:
        raise MissingDependencyError(
            "the tree of calls needs pyinstrument: pip install 'whisperlab[profile]'"
        ) from error
    transcriber, audio = workload.load()
    profiler = Profiler(interval=INTERVAL_S)
    with profiler:
        workload.feed(transcriber, audio)
    session = profiler.last_session
    assert session is not None
    tree = profiler.output_text(unicode=True, color=False, show_all=False)
    kept = [line[:NARROW].rstrip() for line in tree.splitlines()[8:] if line.strip()]
    return CpuProfile(
        session.duration, session.sample_count, "\n".join(kept), profiler.output(HTMLRenderer())
    )
