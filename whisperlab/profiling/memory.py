"""Resident memory as the system counts it: the figure to quote.

VmHWM is reset after the model is loaded and read at the end, in a separate process: ``ru_maxrss`` would be inherited
from the parent and can never fall. The growth includes the buffers that torch's kernels allocate on first use.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from whisperlab.profiling.owned import owned
from whisperlab.profiling.records import ResidentMemory
from whisperlab.profiling.workload import Workload
from whisperlab.util.process import process_memory, reset_peak_rss

if TYPE_CHECKING:
    from whisperlab.evaluation.trace import StreamTranscriber


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
    anonymous, file_backed = (end[field] - libraries[field] for field in ("RssAnon", "RssFile"))
    held = owned(transcriber_parts(transcriber))
    return ResidentMemory(start, libraries["VmRSS"], loaded, end["VmHWM"], anonymous, file_backed, held)


def transcriber_parts(transcriber: StreamTranscriber) -> object:
    """The parts of a transcriber that hold memory, by name; `owned` counts shared memory for the first of them.

    A transcriber of another kind is returned unchanged.
    """
    from whisperlab.transcriber import SessionRestartTranscriber

    if not isinstance(transcriber, SessionRestartTranscriber):
        return transcriber
    parts = transcriber.parts
    return {
        "vad_audio_buffer": transcriber.vad_audio_buffer,
        "audio_buffer_for_lid": transcriber.audio_buffer_for_lid,
        "encoder_cache": transcriber.encoder_cache,
        "encoder": parts.lid.encoder,
        "text_decoder": parts.decoder,
        "metrics": transcriber.metrics,
        "stream": transcriber,
    }
