"""Resident memory as the system charges it: the figure to quote.

VmHWM is reset once the model is loaded and read at the end, in a process of its own: ``ru_maxrss`` would be
inherited from the parent and can never fall. What grows includes the buffers that torch's kernels set up on
first use.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass

from whisperlab.profiling.owned import owned
from whisperlab.profiling.workload import Workload
from whisperlab.util.process import process_memory, reset_peak_rss

_MIB = 2**20


@dataclass(slots=True, frozen=True)
class ResidentMemory:
    """Bytes resident with the interpreter alone, with all libraries, with the model, and at the peak while streaming.

    ``anonymous`` and ``file_backed`` split what the model and streaming had added to the libraries at the end.
    ``owned`` is what the transcriber holds in tensors and arrays, by attribute, added up from their sizes.
    """

    start: int
    libraries: int
    loaded: int
    peak: int
    anonymous: int
    file_backed: int
    owned: Mapping[str, int]

    @property
    def grown(self) -> int:
        """What streaming added to the loaded model, at the peak."""
        return self.peak - self.loaded

    @property
    def above_libraries(self) -> int:
        """What model and streaming added to the libraries, at the peak."""
        return self.peak - self.libraries

    def describe(self) -> str:
        """The figures for a person."""
        held = "\n".join(f"    {size / _MIB:8.1f} MiB  {name}" for name, size in self.owned.items())
        return (
            "resident memory (VmHWM, reset after the model was loaded)\n"
            f"  at start  {self.start / _MIB:8.1f} MiB\n"
            f"  libraries {self.libraries / _MIB:8.1f} MiB\n"
            f"  loaded    {self.loaded / _MIB:8.1f} MiB\n"
            f"  peak      {self.peak / _MIB:8.1f} MiB, {self.grown / _MIB:.1f} MiB above loaded\n"
            f"  at end    {self.anonymous / _MIB:8.1f} MiB anonymous above the libraries, "
            f"{self.file_backed / _MIB:.1f} of files\n"
            f"  of which the transcriber holds, by the sizes of its tensors and arrays\n{held}"
        )


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
