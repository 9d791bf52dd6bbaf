"""The microphone of the browser in JupyterLab, transcribed while it is spoken into."""

import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from whisperlab.cli.transcribe import make_folder, summary
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.trace import capture
from whisperlab.jupyter.live_view import LiveView
from whisperlab.jupyter.results import StreamResult, weights
from whisperlab.streaming.real_time import OverloadOptions
from whisperlab.streaming.sources import Recorded
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray, as_chunk, pcm_16, resampled_chunks
from whisperlab.util.errors import ConfigurationError, needs
from whisperlab.util.log import logger

ANSWER_S = 20.0  # after the end, time for messages of the browser that are still on their way
WAITING = 600  # blocks of 100 ms that wait for a missing one


class BrowserMicrophone:
    """The microphone of the browser, a `Source` that records once its ``widget`` is displayed.

    Samples are rounded to 16 bits, so that a saved recording is exactly what was transcribed. ``overflows`` counts the
    blocks of 100 ms that did not arrive. ``losses`` describes everything that was lost; it is logged.
    """

    live = True

    def __init__(self) -> None:
        with needs("the microphone of a browser needs anywidget", "notebook"):
            from anywidget import AnyWidget
            from traitlets import Float, Unicode
        self.name, self.rate, self.overflows, self.losses = "microphone of the browser", 0, 0, list[str]()
        self._messages: SimpleQueue[tuple[dict[str, Any], Sequence[memoryview]]] = SimpleQueue()
        self.widget = AnyWidget(_esm=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"))
        traits: dict[str, Any] = {"state": Unicode("ready"), "text": Unicode(), "processed_s": Float()}
        self.widget.add_traits(**{name: trait.tag(sync=True) for name, trait in traits.items()})
        self.widget.on_msg(lambda _, message, buffers: self.receive(message, buffers))

    def receive(self, message: dict[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Queue a message of ``microphone.js``. Any thread may call it; Jupyter may do so only between two cells."""
        self._messages.put((message, buffers))

    def close(self) -> None:
        self.receive({})

    def wait(self) -> None:
        """Wait until the browser records, which sets ``name`` and ``rate``. Raises ConfigurationError if it cannot."""
        first, _ = self._messages.get()
        if "rate" not in first:
            self.widget.send({})
            raise ConfigurationError(f"{self.name}: {first.get('error', 'stopped before it was opened')}")
        self.rate, self.name = first["rate"], first["name"]

    def __iter__(self) -> Iterator[FloatArray]:
        if not self.rate:
            self.wait()
        for chunk in resampled_chunks(self._blocks(), self.rate):
            yield as_chunk(pcm_16(chunk))
        if self.losses:
            logger.warning("%s: %s", self.name, "; ".join(self.losses))

    def _blocks(self) -> Iterator[FloatArray]:
        """The blocks by number. JupyterLab sends by two channels: while a cell runs, messages of one can be late."""
        early: dict[int, Sequence[memoryview]] = {}
        expected, last, lost, patience_s = 1, math.inf, None, None
        while expected <= last and (early or patience_s != 0):
            try:
                message, buffers = self._messages.get(timeout=patience_s)
                if not message:
                    self.widget.send({})
                    patience_s = ANSWER_S
                elif message["number"] >= expected:
                    early[message["number"]] = buffers
                if "lost" in message:
                    last, lost, patience_s = message["number"], message["lost"], ANSWER_S
                    self.losses += [message["error"]] if "error" in message else []
            except Empty:
                patience_s = 0
            if early and (patience_s == 0 or len(early) > WAITING):
                self.overflows += min(early) - expected
                expected = min(early)
            while expected in early:
                yield from (np.frombuffer(buffer, "<f4") for buffer in early.pop(expected))
                expected += 1
        if lost is None:
            self.losses.append("the browser did not confirm the end: the last samples may be missing")
        if lost:
            self.losses.append(f"the browser lost about {lost} samples")
        if self.overflows:
            self.losses.append(f"{self.overflows} blocks of 100 ms did not arrive from the browser")


class Listener:
    """Transcribes the microphone of the browser below this cell, in a thread: the cell ends at once.

    The Stop button, `stop`, or an interrupt of the kernel between two cells ends the recording. Then the rest is
    transcribed, and there is a ``result``, or the ``error`` that ended it. The lag is bounded as in `RealTimeFeed`.
    ``save`` keeps the recording in a WAV file, ``trace`` the trace. Options are those of `SessionRestartTranscriber`.
    """

    result: StreamResult | None = None
    error: Exception | None = None

    def __init__(
        self,
        languages: Sequence[str] | None = None,
        *,
        model: str = "base",
        save: str | Path | None = None,
        trace: str | Path | None = None,
        overload: OverloadOptions = OverloadOptions(),
        **options: Any,
    ) -> None:
        from IPython import get_ipython
        from IPython.display import display

        for name, path in {"save": save, "trace": trace}.items():
            make_folder(Path(path or ".").parent, f"{name} {path}")
        self._transcriber = SessionRestartTranscriber(weights(model), languages=languages, **options)
        self._view = LiveView(self._transcriber, every_s=1.0, automatic=False)
        self._save, self._trace, self._overload, self.microphone = save, trace, overload, BrowserMicrophone()
        self.stop = close = self.microphone.close
        display(self.microphone.widget)  # type: ignore[no-untyped-call]
        self._view.draw()
        if kernel := getattr(get_ipython(), "kernel", None):
            kernel.saved_sigint_handler = lambda *_: close()  # ipykernel sets it when this cell has ended
        threading.Thread(target=self._run, name="whisperlab-listen", daemon=True).start()

    def _run(self) -> None:
        widget = self.microphone.widget
        try:
            with TemporaryDirectory(prefix="whisperlab-") as folder:
                self.result = self._stream(Path(self._save or f"{folder}/microphone.wav"))
            if self._trace:
                self.result.save(self._trace)
            widget.text = "\n".join([summary(self.result.trace.recording, self.result.trace), *self.microphone.losses])
        except Exception as error:
            self.error, widget.text = error, str(error)
        self.stop()

    def _stream(self, path: Path) -> StreamResult:
        def progress(at: float) -> None:
            self._view.update()
            self.microphone.widget.processed_s = at

        self.microphone.wait()  # the clock of the trace starts with the first sample
        trace = capture(
            self._view,
            Recorded(self.microphone, path, math.inf),
            recording=path.stem,
            audio_path=self._save,
            pace="real",
            overload=self._overload,
            progress=progress,
        )
        self._view.draw()
        return StreamResult(trace, read_audio(path), self._transcriber)
