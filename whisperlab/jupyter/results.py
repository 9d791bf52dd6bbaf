"""What a notebook does with one recording (`stream`) and with a sweep (`sweep`), as objects that display themselves."""

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd

from whisperlab.data import Recording
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.scoring import match_switches, score_trace, true_switches
from whisperlab.evaluation.trace import Reference, Trace, write_trace
from whisperlab.evaluation.trace.recorder import capture
from whisperlab.evaluation.transcripts import SubtitleOptions
from whisperlab.experiments.results_store import in_memory, read_rows
from whisperlab.experiments.sweep import Grid, Outcome, run_sweep, transcriber_maker
from whisperlab.jupyter.live_view import LiveView
from whisperlab.model.languages import CODES, english_name
from whisperlab.model.weights import load_weights, model_digest
from whisperlab.report import charts, findings
from whisperlab.report.counts import WRONG_FRAMES, WRONG_TEXT, Result, results
from whisperlab.report.figure import Figure
from whisperlab.report.page import page_text
from whisperlab.report.recording import sound_uri, timeline
from whisperlab.report.tables import frame
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError, WhisperlabError
from whisperlab.util.threads import first_signal
from whisperlab.util.timeline import SAMPLE_RATE, samples

pd.set_option("display.max_colwidth", None)  # text is shown whole

_BAR = "{l_bar}{bar}| {n:.1f} of {total:.1f} s of audio [{elapsed}<{remaining}]"
SOUND_LIMIT = 4_000_000  # characters of a player in a page

weights = cache(load_weights)  # once per notebook


def stream(
    source: Recording | str | Path,
    *,
    model: str = "base",
    languages: Sequence[str] | None = None,
    seconds: float | None = None,
    live: bool | Callable[[str], object] = False,
    every_s: float = 1.0,
    stop: threading.Event | None = None,
    **options: Any,
) -> "StreamResult":
    """Stream a recording, or its first seconds, as if it came from a microphone. The stop button ends it early.

    Args:
        source: a recording of a corpus, or an audio file of any format, rate and number of channels.
        languages: the allowed languages; by default those of the recording, or all.
        live: show the stream every ``every_s`` seconds in the notebook, or by a function that gets the markup.
        stop: ends the stream early when it is set, in place of the stop button.
        options: options of `SessionRestartTranscriber`.
    """
    from tqdm.auto import tqdm

    recording = source if isinstance(source, Recording) else None
    audio = recording.audio() if recording else read_audio(source)  # type: ignore[arg-type]
    audio = audio[: samples(seconds)] if seconds else audio
    allowed = list(languages or (recording.languages if recording else ())) or None
    transcriber = SessionRestartTranscriber(weights(model), languages=allowed, **options)
    length_s, show = len(audio) / SAMPLE_RATE, live if callable(live) else None
    view = LiveView(transcriber, every_s=every_s, length_s=length_s, show=show, automatic=False) if live else None

    stopped = stop or threading.Event()

    def progress(at: float) -> None:
        if view:
            view.update()  # here and not in `process`, so that drawing is no part of the measured time
        bar.update(min(at, length_s) - bar.n)

    with (
        first_signal(stopped.set, () if stop else (signal.SIGINT,)),  # a second press raises KeyboardInterrupt
        tqdm(total=length_s + 1e-6, bar_format=_BAR, leave=False, disable=bool(live)) as bar,  # sums are not exact
    ):
        trace = capture(
            view or transcriber,
            audio,
            recording=recording.id if recording else Path(str(source)).name,
            reference=_within(Reference.from_dict(recording.reference), length_s) if recording else None,
            audio_path=recording.audio_path if recording else source,  # type: ignore[arg-type]
            progress=progress,
            stop=stopped.is_set,
        )
        if view:
            view.draw()
    return StreamResult(trace, audio, transcriber, stopped.is_set())


@dataclass(frozen=True)
class StreamResult:
    """A recording that was streamed: its trace, and views of it."""

    trace: Trace
    audio: FloatArray  # the samples that were streamed, 16 kHz mono
    transcriber: SessionRestartTranscriber
    stopped: bool = False  # the stop button ended the stream early

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>{self.segments.to_html(index=False)}"

    def __str__(self) -> str:
        trace = self.trace
        heard = f"stopped by the stop button after {trace.heard_s:.0f} of " if self.stopped else ""
        found = f"{len(trace.segments)} segments, {len(trace.switches)} switches, {trace.speed}"
        return f"{trace.recording}: {heard}{trace.duration:.0f} s of audio, {found}"

    @cached_property
    def rates(self) -> dict[str, Any]:
        """The measures of `score_trace`; without a reference it has none."""
        return score_trace(self.trace).rates()

    def to_text(self, format_name: str, options: SubtitleOptions | None = None) -> str:
        """The final text as ``srt``, ``ctm`` or another of `whisperlab.evaluation.transcripts.FORMATS`."""
        return self.trace.to_text(format_name, options)

    def to_srt(self, options: SubtitleOptions | None = None) -> str:
        return self.to_text("srt", options)

    def timeline(self) -> Figure:
        """Languages over time with the sound: a click plays from there."""
        caption = page_text("timeline", has_reference=bool(self.trace.reference))
        shown = timeline(self.trace, caption=caption)
        return replace(shown, sound=sound_uri(self.audio, SOUND_LIMIT))

    def stages(self) -> Figure:
        """Every stage on one time axis, from the sound to the text."""
        shown = timeline(self.trace, "stages", audio=self.audio, caption=page_text("stages"))
        return replace(shown, sound=sound_uri(self.audio, SOUND_LIMIT))

    @property
    def segments(self) -> pd.DataFrame:
        return frame("segments", self.trace.segments)

    @property
    def operations(self) -> pd.DataFrame:
        """Calls of each operation, and their time in milliseconds."""
        called = [(name, row) for name, row in self.trace.statistics["performance"].items() if row["count"]]
        return frame("operations", called).set_index("operation").round(2)

    @property
    def switches(self) -> pd.DataFrame:
        """Each true switch with the boundary and the decision that were found within 2 s; empty where it was missed."""
        true = true_switches(self.trace.reference) if self.trace.reference else []
        matches = dict(match_switches(true, self.trace.switches, 2.0))
        return frame("switches", [(boundary, matches.get(boundary)) for boundary in true]).round(2)

    def save(self, path: str | Path) -> Path:
        write_trace(path, self.trace)
        return Path(path)


def sweep(
    axes: Mapping[str, Sequence[object]] | Sequence[Mapping[str, Sequence[object]]],
    recordings: Sequence[Recording],
    *,
    model: str = "base",
    out: str | Path | None = None,
    **fixed: Any,
) -> "SweepResult":
    """Run every configuration over every recording, with a progress bar.

    Args:
        axes: the values of each option by dotted name, or several such grids.
        out: folder of the results, by default a temporary one. A second run in the same folder continues the first.
        fixed: options of all configurations, with ``__`` for the dot: ``cache__shadow_rate=0.2``.
    """
    if not recordings:
        raise ConfigurationError("a sweep needs at least one recording, got none")
    grids = [axes] if isinstance(axes, Mapping) else list(axes)
    allowed = sorted({language for recording in recordings for language in recording.languages})
    base = {"languages": allowed or None, **{name.replace("__", "."): value for name, value in fixed.items()}}
    configurations = [config for grid in grids for config in Grid(grid, base).configurations()]
    folder, loaded = Path(out or mkdtemp(prefix="whisperlab-sweep-")), weights(model)
    make, digest = transcriber_maker(loaded), model_digest(loaded)
    outcome = run_sweep(configurations, recordings, folder, make_transcriber=make, model_digest=digest)
    wanted = [config.to_json() for config in configurations]
    found = results(in_memory(row for row in read_rows(folder) if row["config"] in wanted))
    return SweepResult(found, outcome, len(recordings), folder)


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep by configuration, and views of them."""

    results: tuple[Result, ...]
    outcome: Outcome
    n_recordings: int
    folder: Path

    @property
    def table(self) -> pd.DataFrame:
        found = frame("results", self.results)
        measured = {result.language_measure for result in self.results}
        others = [f"{measure} (%)" for measure in {WRONG_TEXT, WRONG_FRAMES} - measured]
        return found.drop(columns=others).astype(object).fillna("–")

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)

    def heatmap(self, rate: str, key: str | None = None) -> Figure:
        """``hit_rate`` or ``false_hit_rate`` by hash precision and cache size, of one key or all."""
        chosen = [result for result in self.results if key in (None, result.config.get("cache.key"))]
        return charts.heatmap(chosen, rate, rate.replace("_", "-"), page_text("outcome_words", results=chosen))

    def outcomes(self) -> Figure:
        """What became of every 100 look-ups."""
        words = page_text("outcome_words", results=self.results)
        return Figure("outcomes", words, charts.outcomes_figure(self.results))

    def tradeoff(self) -> Figure:
        """Encoder time saved against the language error, a point per configuration."""
        return charts.tradeoff(self.results, page_text("outcome_words", results=self.results))

    def findings(self) -> tuple[str, ...]:
        return findings.findings(self.results)

    def limits(self) -> tuple[str, ...]:
        failed = self.outcome.failed
        first = (failed[0]["error"] or "") if failed else ""
        return findings.warnings(self.results, self.n_recordings, (len(failed), first))


def _within(reference: Reference, length_s: float) -> Reference:
    """The segments that end within the audio."""
    parts = tuple(part for part in reference.segments if part.end <= length_s + 0.05)
    return reference if len(parts) == len(reference.segments) else Reference(" ".join(p.text for p in parts), parts)


class Controls:
    """Widgets to choose a file and its languages, to start and to stop its stream. They need a browser."""

    def __init__(self, audio: str | Path = "", languages: Sequence[str] = (), **options: Any) -> None:
        import ipywidgets

        self._options = options  # of `stream`
        self._stop = threading.Event()
        self.result: StreamResult | None = None
        self._file = ipywidgets.FileUpload(accept="audio/*,video/*", multiple=False, description="Choose a file")
        self._path = ipywidgets.Text(value=str(audio), placeholder="or the path of a file", description="Path")
        names, chosen = sorted((f"{english_name(code)} ({code})", code) for code in CODES), tuple(languages)
        self._languages = ipywidgets.SelectMultiple(options=names, value=chosen, rows=5, description="Languages")
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
        self._show(self._view.value)
        thread = threading.Thread(target=self._run, args=(audio,), name="whisperlab-stream", daemon=True)
        thread.start()
        return thread

    def _run(self, audio: Path) -> None:
        try:
            languages = self.languages or None
            self.result = stream(audio, languages=languages, live=self._show, stop=self._stop, **self._options)
            self._view.value += f"<p>{escape(str(self.result))}</p>"
        except WhisperlabError as error:
            self._view.value = f"<p>{escape(str(error))}</p>"
        finally:
            self._show(self._view.value, running=False)

    def _show(self, markup: str, running: bool = True) -> None:
        self._view.value, self._start.disabled, self._stop_button.disabled = markup, running, not running
