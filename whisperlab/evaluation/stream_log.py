"""Stream logs: what a streaming recogniser showed and when, in JSON lines that any program can write, as traces.

`stream_log.schema.json` is the JSON Schema of a line, and docs/stream-log.md describes the format. `read_streams` also
reads traces, logs of simulstream, instance logs of SimulEval and OmniSTEval, lines of a time and text, and JSON of
``transcribe --json``, openai-whisper, faster-whisper and WhisperX. `write_exports` writes logs for two of these.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import Any

from whisperlab.evaluation.scoring.streaming import display_changes, final_words, live_times, timed_segments
from whisperlab.evaluation.scoring.text import UNTAGGED, spaced
from whisperlab.evaluation.trace import Reference, Trace, read_trace, write_trace
from whisperlab.evaluation.trace.records import DOCUMENT, LOG_LINES, LOG_OPTIONAL, SCHEMA, check_fields, parse_line
from whisperlab.model.languages import find_code
from whisperlab.util.errors import ConfigurationError, TraceError, brief
from whisperlab.util.files import as_path, read_text, write_atomic
from whisperlab.util.json_values import Json, unicode_text
from whisperlab.util.validation import from_json, shown

# Time in milliseconds, start, end and text, as whisper_streaming writes them; or time in seconds and text.
_PLAIN = re.compile(r"(?P<ms>\d+\.\d{4}) \d+ \d+ +(?P<said>.*)|(?P<s>\d+(\.\d+)?)(\t|[,;] ?| +)(?P<text>.*)")
# The characters by which GPT-2 writes the bytes of a token, as Whisper's tokeniser in transformers does.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE}
_BYTES |= {chr(256 + n): byte for n, byte in enumerate(sorted({*range(256)} - {*_PRINTABLE}))}

_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)

Lines = Iterator[Json]  # of one stream: its header, then events


def read_streams(path: str | Path, durations: Mapping[str, float] | None = None) -> list[Trace]:
    """The streams in a file, in order, as traces.

    ``durations`` are the seconds of recordings whose length the file lacks. Without it a stream ends with its last
    text. Logs that have no segments get one for each final text, from the final text before it on. Raises TraceError.
    """
    path = Path(path)
    try:
        lines = [line for line in read_text(path).split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read the stream log {path}: {error}") from error
    reader = _reader(lines) if lines else None
    if reader is None:
        return [read_trace(path)]
    try:
        return [_trace(list(stream)) for stream in reader(path, lines, durations or {})]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path} is not valid as a log of {reader.__name__[1:]}: {brief(error)}") from error


def _reader(lines: Sequence[str]) -> Callable[[Path, Sequence[str], Mapping[str, float]], Iterator[Lines]] | None:
    """The reader of a file with these lines; None for a trace and everything unknown."""
    if _PLAIN.fullmatch(lines[0]):
        return _plain
    value = _json_or_none(lines[0]) or _json_or_none("\n".join(lines))
    if isinstance(value, dict) and value.keys() >= DOCUMENT.keys() and "kind" not in value:
        return _documents
    parts, names = value.get("segments") if isinstance(value, dict) else value, {"start", "end", "text"}
    if isinstance(parts, list) and all(isinstance(part, dict) and names <= part.keys() for part in parts):
        return _whisper
    if not isinstance(value, dict):
        return None
    if value.keys() >= {"prediction", "delays"}:
        return _instances
    if value.keys() & {"metadata", "model_loading_time"}:
        return _simulstream
    return _log if value.get("kind") == "header" and "schema" not in value else None


def _log(path: Path, lines: Sequence[str], _: Mapping[str, float]) -> Iterator[Lines]:
    parsed = [parse_line(line, f"{path}:{n}", LOG_LINES, LOG_OPTIONAL) for n, line in enumerate(lines, 1)]
    starts = [number for number, line in enumerate(parsed) if line["kind"] == "header"]
    for start, end in pairwise([*starts, len(parsed)]):
        yield iter(parsed[start:end])


def _instances(path: Path, lines: Sequence[str], durations: Mapping[str, float]) -> Iterator[Lines]:
    """A line per recording with the delays of its words, or of its characters, in milliseconds."""
    for line in map(from_json, lines):
        source, prediction = line.get("source") or path.stem, line["prediction"]
        name = Path(source if isinstance(source, str) else source[0]).stem
        times = zip(line["delays"], line.get("elapsed") or repeat(None), strict=False)
        texts = [{"at": at / 1000, "elapsed": None if wall is None else wall / 1000} for at, wall in times]
        words = [f" {word}" for word in prediction.split()]
        units = words if len(words) == len(texts) else list(prediction)
        length_s = line.get("source_length", 0) / 1000 or durations.get(name) or texts[-1]["at"]
        yield _lines(name, length_s, [text | {"committed": unit} for text, unit in zip(texts, units, strict=True)])


def _simulstream(path: Path, lines: Sequence[str], _: Mapping[str, float]) -> Iterator[Lines]:
    """A line per step with the tokens that it deletes and adds. A token is final when no later step deletes it.

    Steps are computation-aware as in simulstream: audio so far plus the step's own computing time.
    """
    names, steps = dict[object, str](), defaultdict[object, list[Json]](list)
    for line in map(from_json, lines):
        if "metadata" in line:
            names[line["id"]] = Path(line["metadata"]["wav_name"]).stem
        elif "id" in line:
            steps[line["id"]].append(line)
    for key, found in steps.items():
        length_s, compute_s = found[-1]["total_audio_processed"], sum(step["computation_time"] for step in found)
        yield _lines(names[key], length_s, _token_texts(found), compute_s=compute_s)


def _token_texts(steps: Sequence[Json]) -> Iterator[Json]:
    decode = _decoder({token for step in steps for token in step["generated_tokens"]})
    tokens, kept, open_until = list[str](), list[int](), dict[int, int]()
    for number, step in enumerate(steps):
        kept.append(len(tokens) - len(step["deleted_tokens"]))  # how many tokens the step does not delete
        if not _starts_word(decode(tokens[kept[-1] : kept[-1] + 1])):
            open_until[kept[-1]] = number  # until then the word before the place had more letters
        tokens[kept[-1] :] = step["generated_tokens"]
    lasting = [*accumulate([len(tokens), *reversed(kept[1:])], min)][::-1]  # how many of each step's stay to the end
    shown, done = list[str](), 0
    for n, (step, final) in enumerate(zip(steps, lasting, strict=True)):
        shown[kept[n] :] = step["generated_tokens"]
        while final > done and (n < open_until.get(final, 0) or not _starts_word(decode(tokens[final : final + 1]))):
            final -= 1
        at = step["total_audio_processed"]
        texts = {"committed": decode(shown[done:final]), "tentative": decode(shown[final:])}
        yield {"at": at, "elapsed": at + step["computation_time"], **texts}
        done = final


def _decoder(tokens: Iterable[str]) -> Callable[[Sequence[str]], str]:
    """The text of tokens: SentencePiece's, those of a byte-level vocabulary such as Whisper's, or whole words."""
    marks = {token[:1] for token in tokens}
    if "▁" in marks:
        return lambda found: "".join(found).replace("▁", " ")
    if "Ġ" in marks:
        return lambda found: bytes(_BYTES[c] for c in "".join(found)).decode(errors="replace")
    return lambda found: "".join(f" {token}" for token in found)


def _starts_word(text: str) -> bool:
    return not text or text[0].isspace() or " " in spaced(f"x{text[:1]}")


def _plain(path: Path, lines: Sequence[str], durations: Mapping[str, float]) -> Iterator[Lines]:
    """Final text after a time in seconds, which counts on both clocks."""
    found = [_PLAIN.fullmatch(line) for line in lines]
    if None in found:
        raise ValueError(f"line {found.index(None) + 1} is not a time and text: {shown(lines[found.index(None)])}")
    texts = [(float(m["s"]), m["text"]) if m["s"] else (float(m["ms"]) / 1000, m["said"]) for m in filter(None, found)]
    length_s = durations.get(path.stem) or texts[-1][0]
    finals = ({"at": min(at, length_s), "elapsed": at, "committed": f" {text}"} for at, text in texts)
    yield _lines(path.stem, length_s, finals)


def _documents(path: Path, lines: Sequence[str], _: Mapping[str, float]) -> Iterator[Lines]:
    """A document of ``transcribe --json`` per line."""
    for number, document in enumerate(map(from_json, lines), 1):
        where = f"{path}, document {number}: not the output of `whisperlab transcribe --json`"
        check_fields(document, DOCUMENT, f"{where}: a document")
        kinds = {"segments": "segment", "switches": "switch"}
        events = [{"kind": kind, **item} for name, kind in kinds.items() for item in document[name]]
        yield _lines(Path(document["audio"]).stem, document["duration"], events, where=where, all_switches=True)


def _whisper(path: Path, lines: Sequence[str], durations: Mapping[str, float]) -> Iterator[Lines]:
    """JSON of openai-whisper, faster-whisper or WhisperX, which are offline: all text is final at the end of the audio.

    Without a language, every language counts as wrong.
    """
    value = from_json("\n".join(lines))
    whole = value if isinstance(value, dict) else {"segments": value}
    end = durations.get(path.stem) or max((part["end"] for part in whole["segments"]), default=0.0)
    segments = [
        {"kind": "segment", "text": part["text"], "start_time": part["start"], "end_time": part["end"], "at": end}
        | {"language": part.get("language") or whole.get("language") or UNTAGGED}
        for part in whole["segments"]
    ]
    yield _lines(path.stem, end, segments)


def _lines(recording: str, length_s: float, events: Iterable[Json], where: str = "", **facts: float | None) -> Lines:
    """The lines of a stream, with facts for its header; an event without a kind is a text.

    ``where`` begins the message of an error. With the fact ``all_switches`` no switch follows from the segments.
    """
    header = {"kind": "header", "recording": unicode_text(recording), "audio": {"duration": length_s}, **facts}
    for line in (header, *({"kind": "text", **event} for event in events)):
        yield parse_line(json.dumps(line), where or recording, LOG_LINES, LOG_OPTIONAL)


def _json_or_none(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return None


def _trace(lines: Sequence[Json]) -> Trace:
    """The trace of one stream: defaults, and segments and switches where the log has none."""
    head, *events = lines
    texts = [{"elapsed": None, "tentative": "", "language": None, **line} for line in events if line["kind"] == "text"]
    live = bool(texts) and all(text["elapsed"] is not None for text in texts)
    texts = texts if live else [{**text, "elapsed": text["at"]} for text in texts]
    if not any(text["committed"] != text["committed"].strip() for text in texts):  # a log of whole words
        texts = [text | {"committed": f" {text['committed']}"} for text in texts]
    if back := next((b["at"] for a, b in pairwise(texts) if b["at"] < a["at"]), None):
        raise TraceError(f"the log of {head['recording']!r} goes back in time, to {back:g} s: sort its lines by 'at'")
    segments = list(_segments([line for line in events if line["kind"] == "segment"] or texts))
    switches = [line for line in events if line["kind"] == "switch"] or [
        {"kind": "switch", "time": b["start_time"], "from": a["language"], "to": b["language"], "decided_at": b["at"]}
        for a, b in pairwise(segments)
        if UNTAGGED != a["language"] != b["language"] and not head.get("all_switches")
    ]
    switches = [
        {"at": s["decided_at"], **s} | {end: find_code(s[end], s[end]) for end in ("from", "to")} for s in switches
    ]
    found = [*texts, *({"elapsed": event["at"], **event} for event in (*segments, *switches))]
    duration = head["audio"]["duration"]
    end = {"kind": "end", "at": duration, "elapsed": max((event["elapsed"] for event in found), default=duration)}
    cost = {name: head.get(name) for name in ("processor_s", "peak_rss_bytes")}
    end |= {"statistics": {}, "compute_s": head.get("compute_s") or 0.0, **cost}
    config = {"system": head["system"]} if "system" in head else {}
    header = {"kind": "header", "schema": SCHEMA, "created": "", "recording": head["recording"], "config": config}
    header |= {"audio": {"path": None, **head["audio"]}, "reference": None, "pace": "real" if live else "fast"}
    return Trace(header, (*sorted(found, key=lambda event: event["at"]), end))


def _segments(lines: Iterable[Json]) -> Iterator[Json]:
    """The segments in full; ``text`` lines give one for each final text, which begins at the final text before it."""
    start, language = 0.0, UNTAGGED
    for line in lines:
        language = find_code(line["language"] or language, line["language"] or language)
        whole = {"is_final": True, "confidence": 1.0, **line, "kind": "segment", "language": language}
        if line["kind"] == "segment":
            yield {"at": line["end_time"], **whole}
        elif text := line["committed"].strip():
            yield {**whole, "text": text, "start_time": start, "end_time": line["at"]}
            start = line["at"]


# ---- writers -----------------------------------------------------------------------------------------------


def write_exports(folder: Path, streams: Sequence[tuple[Trace, Reference]]) -> None:
    """Write streams, and their references, as stream log and traces, and for OmniSTEval and simulstream.

    OmniSTEval gets the words of the final text with the time at which each was final. simulstream gets every change of
    the display; there a delay counts from the last change of a word, and ``computation_time`` is how far the wall clock
    is behind the audio. Raises ConfigurationError for two streams of a recording, or none.
    """
    names = [trace.recording for trace, _ in streams]
    if not names or len({*names}) < len(names):
        raise ConfigurationError(f"an export needs one stream per recording with a reference, got {shown(names)}")
    texts = defaultdict[str, list[str]](list)
    texts["simulstream.yaml"] = ["detokenizer_type: simuleval", "latency_unit: spm"]
    for number, (trace, reference) in enumerate(streams):
        wav, words, live = f"{trace.recording}.wav", final_words(trace), live_times(trace)
        texts["stream.jsonl"] += map(_json, _log_lines(trace, live))
        delays = {"delays": [1000 * word.at for word in words]}
        delays |= {"elapsed": [1000 * word.live for word in words]} if live else {}
        prediction = {"prediction": " ".join(word.text for word in words), "source_length": 1000 * trace.duration}
        texts["omnisteval.jsonl"].append(_json({"source": [wav], **prediction, **delays}))
        texts["simulstream.jsonl"].append(_json({"id": number, "metadata": {"wav_name": wav}}))
        changes = zip(trace.of_kind("text"), display_changes(trace), strict=True)
        for place, (event, (old, new)) in enumerate(changes):
            times = {"computation_time": max(live[place] - event["at"], 0.0) if live else 0.0}
            step = {"id": number, "total_audio_processed": event["at"], **times}
            texts["simulstream.jsonl"].append(_json({**step, "generated_tokens": new, "deleted_tokens": old}))
        for segment in timed_segments(reference):
            span = {"wav": wav, "offset": segment.start, "duration": segment.end - segment.start}
            texts["segments.yaml"].append(f"- {_json(span)}")
            texts["references.txt"].append(" ".join(spaced(segment.text).split()))
        known = Trace({**trace.header, "reference": reference.to_dict()}, trace.events)
        write_trace(folder / "traces" / as_path(f"{Path(trace.recording).name}.jsonl"), known)
    for name, lines in texts.items():
        write_atomic(folder / name, "".join(f"{line}\n" for line in lines).encode())


def _log_lines(trace: Trace, live: Sequence[float] | None) -> Lines:
    audio = {"duration": trace.duration}
    yield {"kind": "header", "recording": trace.recording, "audio": audio, "compute_s": trace.compute_s or None}
    times = iter(live or repeat(None))
    for event in trace.events:
        names = LOG_LINES.get(event["kind"], {}) | LOG_OPTIONAL.get(event["kind"], {})
        wall = {"elapsed": next(times)} if event["kind"] == "text" else {}
        if names:
            yield {"kind": event["kind"]} | {name: event[name] for name in names if name in event} | wall
