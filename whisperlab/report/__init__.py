"""Reports: one offline HTML file per set of traces or sweep, and an index of all pages. They never load a model."""

from whisperlab.report.index import write_index
from whisperlab.report.recording import timeline
from whisperlab.report.sweep import SweepReport, from_store, from_traces

__all__ = ["SweepReport", "from_store", "from_traces", "timeline", "write_index"]
