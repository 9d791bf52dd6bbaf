"""Sound without speech: how much text does live transcription invent for it?

    python benchmarks/no_speech.py             # 30 minutes: hold music, noise, tones, silence
    python benchmarks/no_speech.py --most 20   # 20 seconds of each

The music is the hold music of Debian's ``asterisk-moh-opsound-g722`` (five pieces, 18 minutes, one of them with
voices far in the background). The rest is made here: white, pink and brown noise, hum, chords, busy and dial tones,
clicks and silence, at -20 and -60 dBFS. *False text* is any final text; *voiced* is what voice activity let through.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from whisperlab import SessionRestartTranscriber
from whisperlab.data.debian import Package, fetch, unpack, verified
from whisperlab.data.scenes import decode_prompt
from whisperlab.evaluation.trace import capture
from whisperlab.model import weights
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE

MUSIC = Package(
    "asterisk-moh-opsound-g722", "2.03-1.1", "8d6b39d6f2e8feff54a042c4a25e1b72f3e2478d05ee372c92f77446fa0b1671"
)
MADE_S = 45.0  # seconds of each made sound
LEVELS_DB = (-20.0, -60.0)


def music() -> Iterator[tuple[str, FloatArray]]:
    """The pieces of hold music by name; the package is downloaded once."""
    packages = weights.cache_dir() / "packages"
    fetch([MUSIC], packages, print)
    for name, raw in sorted(unpack(verified(MUSIC, packages, accept_newer=False)).items()):
        if name.endswith(".g722"):
            yield Path(name).stem, decode_prompt("g722", raw)


def made(length_s: float = MADE_S) -> Iterator[tuple[str, FloatArray]]:
    """Noise, tones, clicks and silence at each level."""
    rng = np.random.default_rng(7)
    n = round(length_s * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    white = rng.standard_normal(n)
    spectrum, bins = np.fft.rfft(white), np.maximum(np.arange(n // 2 + 1), 1)
    on = time % 1.0 < 0.5
    sounds = {
        "white noise": white,
        "pink noise": np.fft.irfft(spectrum / np.sqrt(bins), n),
        "brown noise": np.fft.irfft(spectrum / bins, n),
        "hum": sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 8)),
        "chords": sum(np.sin(2 * np.pi * f * time) * (0.3 + (time * 2 % 1)) for f in (220, 277.2, 329.6)),
        "busy tone": np.sin(2 * np.pi * 425 * time) * on,
        "dial tone": np.sin(2 * np.pi * 350 * time) + np.sin(2 * np.pi * 440 * time),
        "clicks": (np.arange(n) % 8000 < 40) * rng.standard_normal(n),
    }
    for name, sound in sounds.items():
        for level_db in LEVELS_DB:
            scaled = sound / np.sqrt(np.mean(sound**2)) * 10 ** (level_db / 20)
            yield f"{name} {level_db:g} dBFS", np.clip(scaled, -0.99, 0.99).astype(np.float32)
    yield "silence", np.zeros(n, np.float32)


def main() -> None:
    """Print text, voiced seconds and spans without text of each sound, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=1e6, help="seconds of each sound at most")
    parser.add_argument("--languages", default="en,es,fr,it,ru")
    arguments = parser.parse_args()
    transcriber = SessionRestartTranscriber(weights.load_weights("base"), languages=arguments.languages.split(","))
    total = text = voiced = 0.0
    for name, audio in tqdm([*music(), *made(min(MADE_S, arguments.most))], unit="sound"):
        transcriber.reset()
        trace = capture(transcriber, audio[: round(arguments.most * SAMPLE_RATE)], recording=name)
        heard = sum(span.duration_s for span in trace.speech)
        told = trace.statistics["sessions"]["untranscribed_s"]
        false = sum(segment.end_time - segment.start_time for segment in trace.segments)
        total, text, voiced = total + trace.duration, text + false, voiced + heard
        words = " | ".join(segment.text for segment in trace.segments)
        tqdm.write(f"{name:32} {trace.duration:6.0f} s  voiced {heard:5.1f} s  without text {told:5.1f} s  {words}")
    print(f"{total / 60:.1f} minutes: {text:.1f} s of false text, {voiced:.1f} s voiced")


if __name__ == "__main__":
    main()
