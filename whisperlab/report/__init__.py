"""Reports: traces and sweep results become one offline HTML file each, and an index of them.

Nothing here loads the model; matplotlib and jinja2 (extra ``report``) are loaded when a page is made.
"""

from __future__ import annotations

from whisperlab.report.figures import timeline_figure
from whisperlab.report.index import write_index
from whisperlab.report.sweep import SweepReport, from_rows, from_traces

__all__ = ["SweepReport", "from_rows", "from_traces", "timeline_figure", "write_index"]
