"""Real audio through the real model, as the guide asks: what was said, which switches were found, what it cost.

    python tests/milestone2/test_real_code_switching.py --model whisper-base --device cpu

prints it for recordings of a corpus; pytest checks that the page says what the transcriber heard.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from whisperlab import SessionRestartTranscriber, SessionSegment
from whisperlab.data.audio_files import read_audio
from whisperlab.evaluation.scoring import score
from whisperlab.evaluation.scoring.language import WIDEST_S, match_switches, true_switches
from whisperlab.evaluation.trace import Reference
from whisperlab.streaming.results import Switch
from whisperlab.util.audio_arrays import FloatArray, chunks
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper


def listen(transcriber: SessionRestartTranscriber, audio: FloatArray) -> tuple[list[SessionSegment], list[Switch]]:
    """All segments and switches of one recording, heard a tenth of a second at a time."""
    transcriber.reset()
    results = [transcriber.process(chunk) for chunk in chunks(audio, SAMPLE_RATE // 10)]
    results.append(transcriber.finalize())
    segments = [segment for result in results for segment in result.segments]
    return segments, [switch for result in results for switch in result.switches]


def page(
    name: str, segments: Sequence[SessionSegment], switches: Sequence[Switch], reference: Reference
) -> Iterator[str]:
    """What was heard in a recording, and how its switches compare with the true ones, line by line."""
    yield f"{name}: segments"
    for segment in segments:
        times = f"{segment.start_time:6.1f} - {segment.end_time:5.1f}"
        yield f"  {times}  {segment.language}  {segment.confidence:.2f}  {segment.text}"
    true = true_switches(reference)
    pairs = match_switches(true, switches, WIDEST_S)
    found = dict(pairs)
    yield f"{name}: switches (found: within {WIDEST_S:g} s of the true place)"
    for boundary in true:
        switch = found.get(boundary)
        place = f"{boundary.end:6.1f}  to {boundary.language}"
        told = f"found at {switch.time:.1f}, decided at {switch.decided_at:.1f}" if switch else "missed"
        yield f"  {place}  {told}"
    for switch in switches:
        if switch not in found.values():
            yield f"  {switch.time:6.1f}  to {switch.to_language}  false"
    duration = reference.segments[-1].end
    rates = score(reference, segments, switches, duration=duration).rates()
    yield (
        f"{name}: {len(pairs)} of {len(true)} switches found, {len(switches) - len(pairs)} false; "
        f"mixed error rate {rates['mixed_error_rate']:.1%} of {rates['reference_words']} words"
    )


@pytest.mark.model
def test_real_speech_is_followed_and_told_of(
    base_model: Whisper, scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    transcriber = SessionRestartTranscriber(base_model, languages=["en", "es"], lid_hop_ms=400)
    segments, switches = listen(transcriber, scene.audio)
    text = "\n".join([*page("scene", segments, switches, scene.reference), transcriber.get_performance_summary()])
    with capsys.disabled():
        print(f"\n{text}")
    assert {segment.language for segment in segments} <= {"en", "es"}
    assert all(segment.text in text for segment in segments)
    assert "of 2 switches found" in text
    assert text.count("found at") + text.count("missed") == 2
    assert text.count("found at") + text.count("  false") == len(switches)
    assert "lid.total" in text


def main() -> None:
    """Print the page of each recording, then the latency of every operation."""
    from whisperlab.data import load

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="whisper-base", help="a name, or a checkpoint file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--corpus", default="ivr-five", help="a corpus of `whisperlab data list`, or a manifest")
    parser.add_argument("--split", default="test", help="dev or test")
    parser.add_argument("--limit", type=int, default=1, help="how many recordings")
    args = parser.parse_args()
    recordings = load(args.corpus, args.split)[: args.limit]
    languages = sorted({language for recording in recordings for language in recording.languages})
    transcriber = SessionRestartTranscriber(args.model, languages, device=args.device)
    for recording in recordings:
        heard = listen(transcriber, read_audio(recording.audio_path))
        print("\n".join(page(recording.id, *heard, Reference.from_dict(recording.reference))), end="\n\n")
    print(transcriber.get_performance_summary())


if __name__ == "__main__":
    main()
