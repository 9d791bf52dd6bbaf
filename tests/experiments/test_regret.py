"""Regret by cause: every error of the live run has one cause, and each truth reaches the transcriber."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperlab import data
from whisperlab.config import TranscriberConfig
from whisperlab.data import Recording
from whisperlab.data.audio_files import write_wav
from whisperlab.evaluation.scoring import score
from whisperlab.evaluation.trace import Reference, ReferenceSegment
from whisperlab.experiments.regret import (
    CAUSES,
    Changes,
    Regret,
    attribute,
    errors_by_word,
    measure,
    readable,
    summarise,
)
from whisperlab.streaming.results import SessionSegment, Switch
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import samples

SCENE = (
    ReferenceSegment(0.0, 1.0, "en", "one two three"),
    ReferenceSegment(5.0, 6.0, "es", "cuatro cinco"),
    ReferenceSegment(10.0, 11.0, "en", "six seven"),
)
TRUE = ((0.0, "en"), (5.0, "es"), (10.0, "en"), (13.0, "fr"))  # the last is where it was found, in the gap


class Output(NamedTuple):
    """What regret needs of a trace."""

    segments: tuple[SessionSegment, ...] = ()
    switches: tuple[Switch, ...] = ()


def recording(segments: Sequence[ReferenceSegment] = SCENE) -> Recording:
    text = " ".join(segment.text for segment in segments)
    return Recording("scene", Path("none.wav"), 12.0, text, "en,es", tuple(segments), "dev", "made")


def output(text: str, *switches: Switch) -> Output:
    return Output((SessionSegment(text, "en", 0.0, 11.0, True, 0.9),), switches)


def known(changes: Changes) -> set[str]:
    """The truths among the changes: what a perfect recogniser would make of them."""
    truths = {"oracle": changes["oracle"] == TRUE} if "oracle" in changes else {}
    truths["policy"] = changes.get("session.commit_above") == 1.0
    truths["window"] = changes.get("decoding.final_silence_s", (0,))[0] == 30  # type: ignore[index]
    return {name for name, is_true in truths.items() if is_true}


def replays(*texts: str, switches: Sequence[Switch] = ()) -> Callable[[Recording, Changes], Output]:
    """A recogniser with these texts: live, then with each truth in the order of calls of `attribute`."""
    ahead = iter(texts)
    return lambda _, __: output(next(ahead), *switches)


# Order of the calls: live, language, boundary, policy, window, then both, both and policy, all.
PERFECT = "one two three cuatro cinco six seven"


def test_a_wrong_word_is_lost_to_the_first_truth_that_makes_it_right() -> None:
    found = attribute(
        recording(),
        replays(
            "on too tree quatro sinco six seven extra",  # live: all five causes, and an insertion
            "one too tree quatro sinco six seven extra",  # language: "one"
            "on two tree quatro sinco six seven",  # boundary alone: "two", and the insertion
            "on too tree quatro sinco six seven extra extra",  # policy alone: worse by one
            PERFECT,  # window alone: all
            "one two tree quatro sinco six seven",  # and boundary: "two", and the insertion
            "one two three quatro sinco six seven",  # and policy: "three"
            "one two three cuatro sinco sex seven",  # and window: "cuatro"; "six" becomes wrong
        ),
    )
    assert found == Regret(
        words=7, lost=(1, 2, 1, 1, 1), newly_wrong=(0, 0, 0, 1), still_wrong=(5, 3, 2, 2), saved_alone=(1, 2, -1, 6)
    )


def test_each_truth_reaches_the_transcriber() -> None:
    """The switches of the live run: one found late, one into a wrong language, one missed, one in the gap."""
    asked: list[Changes] = []

    def transcribe(_: Recording, changes: Changes) -> Output:
        asked.append(changes)
        late, wrong, in_gap = Switch(6.5, "en", "es", 7.0), Switch(8.0, "es", "it", 9.0), Switch(13.0, "it", "fr", 13.5)
        return output("one", late, wrong, in_gap)

    attribute(recording((*SCENE, ReferenceSegment(14.0, 15.0, "fr", "huit"))), transcribe)
    live, language, boundary, policy, window, both, with_policy, everything = asked
    assert live == {}
    assert language["oracle"] == ((0.0, "en"), (6.5, "es"), (10.0, "en"), (13.0, "fr"))
    assert boundary["oracle"] == ((0.0, "en"), (5.0, "es"), (8.0, "it"), (13.0, "fr"))
    assert both["oracle"] == with_policy["oracle"] == everything["oracle"] == TRUE
    assert [known(changes) for changes in (policy, window)] == [{"policy"}, {"window"}]
    assert [known(changes) for changes in (both, with_policy)] == [{"oracle"}, {"oracle", "policy"}]
    assert known(everything) == {"oracle", "policy", "window"}
    config = TranscriberConfig(languages=("en", "es")).replace({"language_id.prior": {"en": 2.0}})
    modes = [config.replace(changes).mode for changes in asked]
    assert modes == ["auto", "oracle", "oracle", "auto", "auto", "oracle", "oracle", "oracle"]


def test_a_language_whose_switch_was_found_behind_the_next_one_has_no_speech() -> None:
    short = (SCENE[0], replace(SCENE[1], start=1.5, end=2.0), replace(SCENE[2], start=2.5))
    asked: list[Changes] = []

    def transcribe(_: Recording, changes: Changes) -> Output:
        asked.append(changes)
        return output("one", Switch(3.0, "en", "es", 4.0))

    attribute(recording(short), transcribe)
    assert asked[1]["oracle"] == ((0.0, "en"), (3.0, "en"))
    assert TranscriberConfig().replace(asked[1]).mode == "oracle"


TEXTS = st.lists(st.sampled_from(["one", "two", "three", "cuatro", "six", "x"]), max_size=10).map(" ".join)


@given(st.lists(TEXTS, min_size=8, max_size=8))
def test_the_causes_sum_up_to_the_errors_of_the_live_run_whatever_was_said(texts: list[str]) -> None:
    found = attribute(recording(), replays(*texts))
    reference = Reference.from_dict(recording().reference)
    counts = [score(reference, output(text).segments, (), duration=12.0).all_text for text in texts]
    errors = [each.errors for each in counts]
    assert sum(found.lost) == errors[0]
    assert min(found.lost + found.newly_wrong) >= 0
    assert list(found.still_wrong) == [errors[1], *errors[5:]]
    assert list(found.saved_alone) == [errors[0] - n for n in errors[1:5]]
    assert found.words == counts[0].reference_words


def test_an_inserted_word_is_an_error_of_the_word_before_it_or_of_the_first() -> None:
    reference = Reference.from_dict(recording().reference)
    assert errors_by_word(reference, output(f"oh {PERFECT} oh oh")) == [1, 0, 0, 0, 0, 0, 2]
    assert errors_by_word(reference, Output()) == [1] * 7


def test_a_recording_without_timed_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scene has no segments with text and times"):
        attribute(recording([replace(SCENE[0], text="?!")]), replays())
    with pytest.raises(ConfigurationError):
        measure([])


# --- the table


def test_rates_are_sums_over_sums_with_an_interval_from_three_recordings_on() -> None:
    one = Regret(10, (1, 0, 0, 0, 2), (0, 0, 0, 1), (2, 2, 2, 3), (1, 0, -1, 0))
    other = Regret(30, (0, 0, 0, 0, 1), (0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, 0))
    rows = {row["cause"]: row for row in summarise([one, other], np.random.default_rng(0))}
    assert list(rows) == [*CAUSES, "all"]
    assert (rows["language"]["lost"], rows["all"]["lost"]) == (1 / 40, 4 / 40)
    assert sum(rows[cause]["lost"] for cause in CAUSES) == pytest.approx(rows["all"]["lost"])
    assert rows["policy"]["saved_alone"] == -1 / 40
    assert rows["all"]["lost_95"] is None
    low, high = summarise([one, other, other], np.random.default_rng(0))[-1]["lost_95"]
    assert 1 / 30 <= low < 5 / 70 < high <= 3 / 10


def test_the_table_has_no_truth_for_the_model() -> None:
    one = Regret(10, (1, 0, 0, 0, 2), (0, 0, 0, 1), (2, 2, 2, 3), (1, 0, -1, 0))
    language, *_, model, every = readable(summarise([one], np.random.default_rng(0)))
    assert language == {
        "cause": "language",
        "lost": "10.0%",
        "newly wrong": "0.0%",
        "still wrong": "20.0%",
        "saved alone": "10.0%",
    }
    assert model["saved alone"] == every["still wrong"] == "-"
    assert every["lost"] == "30.0%"


# --- the real ones


@pytest.mark.model
def test_a_real_sentence_that_was_taken_for_english_is_lost_to_language(excerpt: Path, tmp_path: Path) -> None:
    """Its true language is Italian; language-ID has a prior that excludes it."""
    (whole,) = data.load(str(excerpt), "test")
    sentence = whole.segments[1]
    begins = sentence.start - 0.2
    path = tmp_path / "sentence.wav"
    write_wav(path, whole.audio()[samples(begins) :])
    segments = (replace(sentence, start=0.2, end=sentence.end - begins),)
    alone = replace(whole, audio_path=path, duration=whole.duration - begins, segments=segments, text=sentence.text)
    config = TranscriberConfig().replace(
        {"language_id.prior": {"en": 1e9}, "language_id.hop_ms": 500, "session.step_ms": 2000}
    )
    said: list[str] = []
    rows = {row["cause"]: row for row in measure([alone], config, say=said.append)}
    assert rows["language"]["lost"] >= 0.3
    assert rows["language"]["saved_alone"] == pytest.approx(rows["all"]["lost"] - rows["language"]["still_wrong"])
    assert said == [f"{whole.id}: {round(7 * rows['all']['lost'])} errors in 7 words"]
