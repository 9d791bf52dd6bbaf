"""Controls of the notebook for a user's own recording: a file, its languages, start and stop."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from whisperlab.jupyter.results import StreamResult, stream
from whisperlab.model.languages import CODES, english_name
from whisperlab.util.errors import ConfigurationError, WhisperlabError


class Controls:
    """Choose or drop a file, choose its languages, start and stop; the stream runs beside the notebook.

    The values of the notebook's parameters come first. Without a browser (papermill, `whisperlab report`) the controls
    show nothing and do no harm.

    Args:
        audio: path of a file; empty to choose one.
        languages: codes of the allowed languages; empty to choose them.
        options: options of `whisperlab.jupyter.results.stream`.
    """

    def __init__(self, audio: str | Path = "", languages: Sequence[str] = (), **options: Any) -> None:
        import ipywidgets

        self._options = options
        self._stop = threading.Event()
        self.result: StreamResult | None = None
        self._file = ipywidgets.FileUpload(accept="audio/*,video/*", multiple=False, description="Choose a file")
        self._path = ipywidgets.Text(value=str(audio), placeholder="or the path of a file", description="Path")
        names = sorted((f"{english_name(code)} ({code})", code) for code in CODES)
        self._languages = ipywidgets.SelectMultiple(
            options=names, value=tuple(languages), rows=5, description="Languages"
        )
        self._start = ipywidgets.Button(description="Start", icon="play")
        self._stop_button = ipywidgets.Button(description="Stop", icon="stop", disabled=True)
        self._view = ipywidgets.HTML()
        self._start.on_click(lambda _: self.start())
        self._stop_button.on_click(lambda _: self._stop.set())
        buttons = ipywidgets.HBox([self._start, self._stop_button])
        self.box = ipywidgets.VBox([self._file, self._path, self._languages, buttons, self._view])

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    @property
    def audio(self) -> Path | None:
        """The chosen file; None while none is chosen. An uploaded file is kept in a temporary folder."""
        if self._path.value.strip():
            return Path(self._path.value.strip()).expanduser()
        if not self._file.value:
            return None
        (uploaded,) = self._file.value
        target = Path(mkdtemp(prefix="whisperlab-")) / Path(uploaded["name"]).name
        target.write_bytes(uploaded["content"])
        return target

    @property
    def languages(self) -> list[str]:
        """The chosen languages; empty allows all."""
        return list(self._languages.value)

    def start(self) -> threading.Thread:
        """Stream the chosen file beside the notebook, shown below the buttons; `result` has the result at the end."""
        audio = self.audio
        if audio is None:
            self._view.value = "<p>Choose a file first.</p>"
            raise ConfigurationError("no file is chosen: drop one on the button, or write its path")
        self._stop.clear()
        self._running(True)
        thread = threading.Thread(target=self._run, args=(audio,), name="whisperlab-stream", daemon=True)
        thread.start()
        return thread

    def _run(self, audio: Path) -> None:
        try:
            languages = self.languages or None
            self.result = stream(audio, languages=languages, live=self._show, stop=self._stop, **self._options)
            self._show(f"{self._view.value}<p>{escape(str(self.result))}</p>")
        except WhisperlabError as error:
            self._show(f"<p>{escape(str(error))}</p>")
        finally:
            self._running(False)

    def _show(self, markup: str) -> None:
        self._view.value = markup

    def _running(self, running: bool) -> None:
        self._start.disabled, self._stop_button.disabled = running, not running
