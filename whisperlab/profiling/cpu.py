"""CPU time as a call tree, by pyinstrument.

pyinstrument samples every millisecond instead of tracing each call, so frequently called functions are not distorted.
"""

from __future__ import annotations

from whisperlab.profiling.records import CpuProfile
from whisperlab.profiling.workload import Workload
from whisperlab.util.errors import MissingDependencyError

INTERVAL_S = 0.001
NARROW = 100  # maximum characters in a line of the tree


def measure(workload: Workload) -> CpuProfile:
    """Stream the recording under pyinstrument, started after the model is loaded."""
    try:
        from pyinstrument import Profiler
        from pyinstrument.renderers import HTMLRenderer
    except ImportError as error:
        raise MissingDependencyError("the call tree needs pyinstrument: pip install 'whisperlab[profile]'") from error
    transcriber, audio = workload.load()
    profiler = Profiler(interval=INTERVAL_S)
    with profiler:
        workload.feed(transcriber, audio)
    session = profiler.last_session
    assert session is not None
    tree = profiler.output_text(unicode=True, color=False, show_all=False)
    kept = [line[:NARROW].rstrip() for line in tree.splitlines()[8:] if line.strip()]
    return CpuProfile(session.duration, session.sample_count, "\n".join(kept), profiler.output(HTMLRenderer()))
