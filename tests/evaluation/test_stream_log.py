"""Stream logs of any system: what is read, what is refused, and that other programs read what is written."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from whisperlab.evaluation import stream_log
from whisperlab.evaluation.scoring import score_trace
from whisperlab.evaluation.scoring.streaming import final_words, live_times, stream_counts
from whisperlab.evaluation.stream_log import read_streams, write_exports
from whisperlab.evaluation.trace import Reference, ReferenceSegment, Trace, read_trace
from whisperlab.util.errors import ConfigurationError, TraceError

HEADER = {"kind": "header", "recording": "call", "audio": {"duration": 6.0}}
LOG: list[dict[str, Any]] = [
    HEADER,
    {"kind": "text", "at": 1.0, "elapsed": 1.2, "committed": "", "tentative": "press"},
    {"kind": "text", "at": 2.0, "elapsed": 2.2, "committed": " Press one.", "tentative": "", "language": "English"},
    {"kind": "text", "at": 4.0, "elapsed": 4.5, "committed": " Marque dos", "tentative": "", "language": "es"},
    {"kind": "text", "at": 6.0, "elapsed": 6.1, "committed": " por favor.", "tentative": ""},
]
REFERENCE = Reference(
    "press one marque dos por favor",
    (ReferenceSegment(0, 1.8, "en", "press one"), ReferenceSegment(2, 6, "es", "marque dos por favor")),
)


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def read(path: Path, *lines: object) -> Trace:
    (found,) = read_streams(written(path / "call.jsonl", *lines))
    return found


# ---- the log -----------------------------------------------------------------------------------------------


def test_a_log_of_a_header_and_texts_is_scored_in_full(tmp_path: Path) -> None:
    trace = read(tmp_path, *LOG)
    rates = score_trace(trace, REFERENCE).rates()
    assert (rates["mixed_error_rate"], rates["switch_f1_at_1"]) == (0.0, 1.0)
    assert [(s.language, s.start_time, s.end_time) for s in trace.segments] == [
        ("en", 0, 2),
        ("es", 2, 4),
        ("es", 4, 6),
    ]
    assert [(s.time, s.from_language, s.to_language, s.decided_at) for s in trace.switches] == [(2, "en", "es", 4)]
    assert rates["long_yaal_ca"] > rates["long_yaal"] > 0
    assert rates["time_to_final_p50"] == pytest.approx(0.1)
    assert rates["normalized_erasure"] == pytest.approx(1 / 6)  # "press" became "Press"
    assert rates["real_time_factor"] is None


def test_a_document_of_transcribe_has_the_switches_that_it_states_and_no_others(tmp_path: Path) -> None:
    segments = [
        {
            "text": text,
            "language": lang,
            "start_time": start,
            "end_time": start + 2,
            "is_final": True,
            "confidence": 0.9,
        }
        for start, lang, text in ((0, "English", "press one"), (2, "es", "marque dos"))
    ]
    document = {"audio": "calls/call.wav", "duration": 6.0, "segments": segments, "switches": []}
    switch = {"time": 2.0, "from": "English", "to": "es", "decided_at": 3.0}
    none, one = read_streams(written(tmp_path / "out.jsonl", document, document | {"switches": [switch]}))
    assert (none.recording, none.duration, none.switches) == ("call", 6.0, ())
    assert [(s.language, s.text) for s in none.segments] == [("en", "press one"), ("es", "marque dos")]
    assert [(s.time, s.from_language, s.to_language, s.decided_at) for s in one.switches] == [(2, "en", "es", 3)]


def test_segments_and_switches_of_a_log_replace_those_of_its_texts(tmp_path: Path) -> None:
    word = {"word": " Press", "language": "en", "start": 0.1, "end": 0.5, "probability": 0.9}
    segment = {
        "kind": "segment",
        "text": "Press",
        "language": "en",
        "start_time": 0.1,
        "end_time": 0.5,
        "words": [word],
    }
    switch = {"kind": "switch", "time": 0.0, "from": "es", "to": "en", "decided_at": 1.0}
    trace = read(tmp_path, *LOG, segment, switch)
    assert [(s.text, s.words[0].end, s.is_final) for s in trace.segments] == [("Press", 0.5, True)]
    assert [(s.to_language, s.decided_at) for s in trace.switches] == [("en", 1.0)]


def test_a_file_can_have_several_streams_and_each_names_its_system(tmp_path: Path) -> None:
    second = {**HEADER, "recording": "b", "system": "mine", "compute_s": 3.0}
    traces = read_streams(written(tmp_path / "log.jsonl", *LOG, second, *LOG[1:]))
    assert [(trace.recording, trace.config) for trace in traces] == [("call", {}), ("b", {"system": "mine"})]
    assert score_trace(traces[1], REFERENCE).rates()["real_time_factor"] == 0.5


def test_without_a_wall_clock_nothing_is_computation_aware(tmp_path: Path) -> None:
    trace = read(tmp_path, *({name: line[name] for name in line if name != "elapsed"} for line in LOG))
    assert live_times(trace) is None
    assert score_trace(trace, REFERENCE).rates()["long_yaal_ca"] is None
    assert stream_counts(trace, REFERENCE).to_final == (0.0,)


def test_a_log_of_whole_words_needs_no_spaces(tmp_path: Path) -> None:
    words = [word.text for word in final_words(read(tmp_path, *LOG))]
    bare = [{**line, "committed": line["committed"].strip()} if "committed" in line else line for line in LOG]
    assert [word.text for word in final_words(read(tmp_path, *bare))] == words


def test_the_schema_and_the_reader_accept_the_same_lines(tmp_path: Path) -> None:
    schema = json.loads(Path(stream_log.__file__).with_name("stream_log.schema.json").read_text("utf-8"))
    check = Draft202012Validator(schema)
    text, segment = LOG[2], {"kind": "segment", "text": "a", "language": "en", "start_time": 0.0, "end_time": 1.0}
    switch = {"kind": "switch", "time": 1.0, "from": "en", "to": "es", "decided_at": 2.0}
    good = [*LOG, segment, switch, {**text, "elapsed": None}, {**HEADER, "compute_s": None}, {**text, "language": None}]
    needed = [(HEADER, "recording audio"), (text, "at committed"), (segment, "text language start_time end_time")]
    bad = [{key: line[key] for key in line if key != lost} for line, names in needed for lost in names.split()]
    bad += [
        {**text, "at": -1},
        {**text, "at": "1"},
        {**text, "committed": None},
        {**text, "elapsed": -0.5},
        {**text, "elapsed": 1e9},
    ]
    bad += [
        {**HEADER, "audio": {"duration": 0}},
        {**HEADER, "audio": {}},
        {**text, "kind": "frame"},
        {**switch, "to": 1},
    ]
    bad += [{**segment, "words": [{"word": "a"}]}, {**segment, "is_final": 1}, {**HEADER, "system": 3}]
    for line in good:
        assert check.is_valid(line), line
        read(tmp_path, HEADER, line) if line["kind"] != "header" else read(tmp_path, line, text)
    for line in bad:
        assert not check.is_valid(line), line
        with pytest.raises(TraceError):
            read(tmp_path, HEADER, line, text)


@pytest.mark.parametrize(
    "lines, told",
    [
        ([LOG[0], LOG[3], LOG[2]], r"goes back in time, to 2 s: sort its lines by 'at'"),
        ([LOG[0], {**LOG[1], "at": "soon"}], r"call.jsonl:2: a text line whose at should be seconds"),
        (["1.0\thello", "there"], r"not valid as a log of plain: ValueError: line 2 is not a time and text: 'there"),
        ([{"source": "a.wav", "prediction": "one two three", "delays": [1]}], r"not valid as a log of instances"),
        ([{"id": 0, "metadata": {}}], r"not valid as a log of simulstream: KeyError: 'wav_name'"),
        (["hello"], r"call.jsonl:1 is not JSON"),
    ],
)
def test_a_wrong_log_is_refused_with_what_to_do(lines: list[object], told: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=told):
        read_streams(written(tmp_path / "call.jsonl", *lines))


# ---- logs of other programs --------------------------------------------------------------------------------


def test_simuleval_instances_are_read_in_words_or_characters(tmp_path: Path) -> None:
    words = {"source": ["/wavs/a.wav", "rate: 16000"], "prediction": "one two", "delays": [1000, 2000.0]}
    words |= {"elapsed": [1200, 2300], "source_length": 5000.0}
    characters = {"source": "b.wav", "prediction": "你好", "delays": [1000, 2000], "source_length": 5000}
    first, second = read_streams(written(tmp_path / "log.jsonl", words, characters))
    assert (first.recording, first.duration) == ("a", 5.0)
    assert final_words(first) == [("one", 1.0, 1.2), ("two", 2.0, 2.3)]
    assert [(word.text, word.at) for word in final_words(second)] == [("你", 1.0), ("好", 2.0)]


def test_lines_of_time_and_text_are_read_with_one_clock(tmp_path: Path) -> None:
    path = written(tmp_path / "call.txt", "1.5\thello there", "7\tworld")
    (trace,) = read_streams(path, {"call": 6.0})
    assert (trace.recording, trace.duration) == ("call", 6.0)
    assert final_words(trace) == [("hello", 1.5, 1.5), ("there", 1.5, 1.5), ("world", 6.0, 7.0)]


@pytest.mark.parametrize("separator", ["\t", ", ", ";", "  "])
def test_a_time_and_its_text_may_be_separated_in_several_ways(tmp_path: Path, separator: str) -> None:
    (trace,) = read_streams(written(tmp_path / "call.txt", f"1.5{separator}2 o'clock, please"))
    assert trace.committed == ((" 2 o'clock, please", 1.5),)


def test_lines_of_whisper_streaming_have_times_in_milliseconds(tmp_path: Path) -> None:
    lines = ("1500.0000 0 1200  hello there", "2750.5000 1200 2500  world")
    (trace,) = read_streams(written(tmp_path / "call.txt", *lines))
    assert final_words(trace) == [("hello", 1.5, 1.5), ("there", 1.5, 1.5), ("world", 2.7505, 2.7505)]


def test_a_line_without_a_time_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 2 is not a time and text: 'no time'"):
        read_streams(written(tmp_path / "call.txt", "1.5 hello", "no time"))


def test_byte_level_tokens_become_text(tmp_path: Path) -> None:
    step = {"id": 0, "total_audio_processed": 1.0, "computation_time": 0.1, "deleted_tokens": []}
    meta = {"id": 0, "metadata": {"wav_name": "x/call.wav"}}
    trace = read(tmp_path, meta, {**step, "generated_tokens": ["Ġse", "Ã", "±or", "Ġä½", "ł"]})
    assert [word.text for word in final_words(trace)] == ["señor", "你"]


@pytest.mark.parametrize("seed", range(40))
def test_words_of_a_simulstream_log_have_the_delays_of_its_own_reader(seed: int, tmp_path: Path) -> None:
    from simulstream.metrics.readers import LogReader

    rng, stack, lines = Random(seed), list[str](), list[object]()
    lines.append({"id": 7, "metadata": {"wav_name": "call.wav"}})
    for at in range(1, 12):
        gone = stack[len(stack) - rng.randint(0, min(4, len(stack))) :]
        new = ["▁" * (rng.random() < 0.7 or not stack) + rng.choice("abc") for _ in range(rng.randint(0, 4))]
        stack = [*stack[: len(stack) - len(gone)], *new]
        step = {"id": 7, "total_audio_processed": float(at), "computation_time": round(rng.random(), 3)}
        lines.append({**step, "generated_tokens": new, "deleted_tokens": gone})
    trace = read(tmp_path, *lines)
    config = SimpleNamespace(detokenizer_type="simuleval", latency_unit="spm")
    theirs = LogReader(config, str(tmp_path / "call.jsonl")).final_outputs_and_latencies()["call"]
    words = final_words(trace)
    assert [word.text for word in words] == theirs.text_items("word")
    assert [word.at for word in words] == theirs.ideal_delays
    assert [word.live for word in words] == pytest.approx(theirs.computational_aware_delays)


# ---- writers -----------------------------------------------------------------------------------------------


def test_an_export_is_read_back_as_the_same_words(tmp_path: Path) -> None:
    trace = read(tmp_path, *LOG)
    write_exports(tmp_path / "out", [(trace, REFERENCE)])
    wanted = final_words(trace)
    for name in ("stream.jsonl", "omnisteval.jsonl"):
        (again,) = read_streams(tmp_path / "out" / name)
        for one, other in zip(final_words(again), wanted, strict=True):
            assert (one.text, one.at, one.live) == (other.text, pytest.approx(other.at), pytest.approx(other.live))
    (log,) = read_streams(tmp_path / "out" / "stream.jsonl")
    assert (log.segments, log.switches) == (trace.segments, trace.switches)
    saved = read_trace(tmp_path / "out" / "traces" / "call.jsonl")
    assert (saved.reference, score_trace(saved)) == (REFERENCE, score_trace(trace, REFERENCE))


def test_simulstream_measures_the_same_erasure_in_an_export(tmp_path: Path) -> None:
    from simulstream.metrics.readers import LogReader
    from simulstream.metrics.stats import NormalizedErasure

    trace = read(tmp_path, *LOG)
    write_exports(tmp_path, [(trace, REFERENCE)])
    config = SimpleNamespace(detokenizer_type="simuleval", latency_unit="spm")
    erasure = NormalizedErasure().compute(LogReader(config, str(tmp_path / "simulstream.jsonl")))
    assert score_trace(trace, REFERENCE).rates()["normalized_erasure"] == pytest.approx(erasure)


def test_two_streams_of_a_recording_are_not_exported_together(tmp_path: Path) -> None:
    trace = read(tmp_path, *LOG)
    with pytest.raises(ConfigurationError, match=r"one stream per recording with a reference, got \['call', 'call'\]"):
        write_exports(tmp_path, [(trace, REFERENCE)] * 2)


def test_a_recording_named_like_a_path_is_written_into_the_folder(tmp_path: Path) -> None:
    trace = read(tmp_path, {**HEADER, "recording": "../../../call"}, *LOG[1:])
    write_exports(tmp_path / "a" / "b", [(trace, REFERENCE)])
    assert {path.parent.name for path in tmp_path.rglob("call.jsonl")} == {"traces", tmp_path.name}
