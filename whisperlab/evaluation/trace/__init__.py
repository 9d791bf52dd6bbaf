"""The trace: everything that one transcriber did with one recording, as JSON lines on two clocks.

``at`` is the delay clock (seconds of audio fed so far), ``elapsed`` the wall clock. Scoring and reports read traces
only, so they need no model. Line 1 is the header (machine, versions, configuration, audio, reference). The last line
has the kind ``end`` and the statistics; a file without it is incomplete and cannot be read.
"""

from whisperlab.evaluation.trace.recorder import StreamTranscriber, capture
from whisperlab.evaluation.trace.records import Pace, Reference, ReferenceSegment, Trace, read_trace, write_trace
from whisperlab.util.process import provenance

__all__ = ["Pace", "Reference", "ReferenceSegment", "StreamTranscriber", "Trace"]
__all__ += ["capture", "provenance", "read_trace", "write_trace"]
