"""Resident memory as the system counts it: the figure to quote.

VmHWM is reset after the model is loaded and read at the end, in a separate process: ``ru_maxrss`` would be inherited
from the parent and can never fall. The growth includes the buffers that torch's kernels allocate on first use.
"""

from __future__ import annotations

import gc

from whisperlab.profiling.owned import owned
from whisperlab.profiling.records import ResidentMemory
from whisperlab.profiling.workload import Workload
from whisperlab.util.process import process_memory, reset_peak_rss


def measure(workload: Workload) -> ResidentMemory:
    """Stream the recording and report memory; call it in a fresh process."""
    start = process_memory()["VmRSS"]
    workload.import_libraries()
    gc.collect()
    libraries = process_memory()
    transcriber, audio = workload.load()
    gc.collect()
    loaded = process_memory()["VmRSS"]
    reset_peak_rss()
    workload.feed(transcriber, audio)
    end = process_memory()
    return ResidentMemory(
        start,
        libraries["VmRSS"],
        loaded,
        end["VmHWM"],
        end["RssAnon"] - libraries["RssAnon"],
        end["RssFile"] - libraries["RssFile"],
        owned(transcriber),
    )
