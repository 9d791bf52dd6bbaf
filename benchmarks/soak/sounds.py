"""The sounds of a soak, tile by tile: real speech, clean or distorted, and synthetic music, noise and silence.

Only the speech clips stay in memory, as 16-bit samples. Everything else exists for one tile or one clip. The same seed
gives the same samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.soak.plan import KINDS, TILE, Piece
from whisperlab.data.manifest import Recording
from whisperlab.data.scenes import pink_noise
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.timeline import SAMPLE_RATE, samples

LOUDNESS = 0.1  # root mean square of speech (-20 dB of full scale)
SNRS_DB = (20.0, 10.0, 5.0, 0.0)
ROOM = 10 ** (-70 / 20)  # root mean square of a quiet room
UNDER_DB = 12.0  # level of music below the speech over it
BABBLERS = 6
_GAPS_MS = (0, 700)
_CUT_S = (0.6, 1.5)  # seconds of a clip before the next language
_FRAME = 160  # samples (10 ms)
_QUIET = 10 ** (-30 / 20)  # relative to the loudness of a clip: quieter frames are pauses
_FADE = 80  # samples

_BEAT = SAMPLE_RATE // 2
_CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # semitones above the key: I, vi, IV, V
_HARMONICS = (1.0, 0.5, 0.3, 0.15)

Parts = Iterator[FloatArray]  # an endless sequence of arrays of any length


@dataclass(slots=True, frozen=True)
class Clip:
    """A stretch of real speech in one language, shape (n,)."""

    lang: str
    pcm: NDArray[np.int16]

    @property
    def audio(self) -> FloatArray:
        """Its samples as floats."""
        return self.pcm.astype(np.float32) / np.float32(32768)


def clips(recordings: Sequence[Recording]) -> list[Clip]:
    """The speech of recordings, a clip per segment."""
    found = []
    for recording in recordings:
        pcm = np.rint(recording.audio() * 32767).astype(np.int16)
        found += [Clip(s.lang, pcm[samples(s.start) : samples(s.end)].copy()) for s in recording.segments]
    return found


class Sounds:
    """Makes the pieces of a plan from speech in two or more languages."""

    def __init__(self, speech: Sequence[Clip]) -> None:
        self._clips: dict[str, list[Clip]] = {}
        for clip in speech:
            self._clips.setdefault(clip.lang, []).append(clip)
        if len(self._clips) < 2:
            raise ConfigurationError(
                f"a soak needs speech in two languages or more, got {', '.join(self._clips) or 'none'}"
            )
        self._kinds: dict[str, Callable[[np.random.Generator], Parts]] = {
            "speech": self._speech,
            "fast switches": partial(self._speech, gaps_ms=(0, 1), cut_s=_CUT_S),
            "monologue": self._monologue,
            "speech in white noise": partial(self._in_noise, noise=_white),
            "speech in pink noise": partial(self._in_noise, noise=_pink),
            "speech in babble": partial(self._in_noise, noise=self._babble),
            "speech over music": self._over_music,
            "music": _music,
            "noise": self._noise,
            "quiet room": lambda rng: (np.float32(ROOM) * tile for tile in _pink(rng)),
            "digital zero": lambda _: itertools.repeat(np.zeros(TILE, np.float32)),
            "clipping": self._clipping,
            "DC steps": self._dc_steps,
        }
        assert self._kinds.keys() == KINDS.keys()

    @property
    def languages(self) -> list[str]:
        """The languages of the speech."""
        return sorted(self._clips)

    def tiles(self, piece: Piece) -> Parts:
        """The samples of a piece, tile by tile, float32 in [-1, 1]."""
        parts = _tiles(self._kinds[piece.kind](np.random.default_rng(piece.seed)))
        for _ in range(piece.n_tiles):
            yield np.clip(next(parts), -1, 1)

    def _speech(
        self, rng: np.random.Generator, gaps_ms: tuple[int, int] = _GAPS_MS, cut_s: tuple[float, float] | None = None
    ) -> Parts:
        """Clips with pauses between them. Each has another language than the one before."""
        languages, before = self.languages, ""
        while True:
            before = str(rng.choice([code for code in languages if code != before]))
            audio = self._any(rng, before).audio
            yield _faded(audio[: samples(rng.uniform(*cut_s))] if cut_s else audio)
            yield np.zeros(samples(int(rng.integers(*gaps_ms)) / 1000), np.float32)

    def _monologue(self, rng: np.random.Generator) -> Parts:
        """One language without pauses."""
        language = str(rng.choice(self.languages))
        while True:
            yield _faded(_without_pauses(self._any(rng, language).audio))

    def _in_noise(self, rng: np.random.Generator, noise: Callable[[np.random.Generator], Parts]) -> Parts:
        loudness = np.float32(LOUDNESS * 10 ** (-float(rng.choice(SNRS_DB)) / 20))
        for speech, around in zip(_tiles(self._speech(rng)), _tiles(noise(rng)), strict=True):
            yield speech + loudness * around

    def _over_music(self, rng: np.random.Generator) -> Parts:
        for speech, music in zip(_tiles(self._speech(rng)), _tiles(_music(rng)), strict=True):
            yield speech + np.float32(10 ** (-UNDER_DB / 20)) * music

    def _noise(self, rng: np.random.Generator) -> Parts:
        """Noise by itself, of any kind and loudness."""
        kind = (_white, _pink, self._babble)[int(rng.integers(3))]
        loudness = np.float32(10 ** (rng.uniform(-50, -15) / 20))
        return (loudness * tile for tile in kind(rng))

    def _babble(self, rng: np.random.Generator) -> Parts:
        """Several speakers at once, in mixed languages."""
        voices = [_tiles(self._speech(rng, gaps_ms=(0, 200))) for _ in range(BABBLERS)]
        for together in zip(*voices, strict=True):
            yield np.asarray(np.sum(together, 0) / np.float32(LOUDNESS * BABBLERS**0.5), np.float32)

    def _clipping(self, rng: np.random.Generator) -> Parts:
        """Speech that is far too loud in random places."""
        for audio in self._speech(rng):
            gain = np.ones(-(-len(audio) // _BEAT), np.float32)
            gain[rng.random(len(gain)) < 0.4] = rng.uniform(10, 40)
            yield np.clip(audio * np.repeat(gain, _BEAT)[: len(audio)], -1, 1)

    def _dc_steps(self, rng: np.random.Generator) -> Parts:
        """Speech with a DC offset that jumps."""
        for tile in _tiles(self._speech(rng)):
            steps = rng.uniform(-0.4, 0.4, TILE // _BEAT).astype(np.float32)
            yield tile + np.repeat(steps, _BEAT)

    def _any(self, rng: np.random.Generator, language: str) -> Clip:
        there = self._clips[language]
        return there[int(rng.integers(len(there)))]


def _tiles(parts: Parts) -> Parts:
    """The same samples cut into tiles."""
    tile, filled = np.empty(TILE, np.float32), 0
    for part in parts:
        rest = part
        while len(rest):
            n = min(len(rest), TILE - filled)
            tile[filled : filled + n], rest = rest[:n], rest[n:]
            filled += n
            if filled == TILE:
                yield tile
                tile, filled = np.empty(TILE, np.float32), 0


def _faded(audio: FloatArray) -> FloatArray:
    """Fade the ends, so that they do not click. Changes the array."""
    ramp = np.linspace(0, 1, min(_FADE, len(audio)), dtype=np.float32)
    audio[: len(ramp)] *= ramp
    audio[len(audio) - len(ramp) :] *= ramp[::-1]
    return audio


def _without_pauses(audio: FloatArray) -> FloatArray:
    """The audio without its quiet 10 ms frames."""
    frames = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.square(frames).mean(1)
    spoken: FloatArray = frames[power > _QUIET**2 * np.percentile(power, 95)].reshape(-1)
    return spoken


def _white(rng: np.random.Generator) -> Parts:
    while True:
        yield rng.standard_normal(TILE, np.float32)


def _pink(rng: np.random.Generator) -> Parts:
    while True:
        yield pink_noise(rng, TILE)


def _music(rng: np.random.Generator) -> Parts:
    """Bars of a chord, one note per beat with vibrato, over a bass and a drum; as loud as speech."""
    key = 110 * 2 ** (int(rng.integers(12)) / 12)
    while True:
        chord = _CHORDS[int(rng.integers(4))]
        for beat in range(4):
            tones = [(note, 1.0) for note in chord] + [(chord[beat % 3] + 12, 1.5), (chord[0] - 12, 1.5)]
            sound = sum((loud * _tone(rng, key * 2 ** (note / 12)) for note, loud in tones), _drum(rng, beat))
            yield np.float32(LOUDNESS) * np.asarray(sound, np.float32)


def _tone(rng: np.random.Generator, hertz: float) -> FloatArray:
    """A note of one beat: harmonics, 5 Hz vibrato, a quick attack and a slow decay."""
    time = np.arange(_BEAT, dtype=np.float32) / np.float32(SAMPLE_RATE)
    phase = 2 * np.pi * hertz * time + 0.15 * np.sin(2 * np.pi * 5 * time + rng.uniform(0, 6))
    envelope = np.minimum(time / 0.01, 1) * np.exp(-3 * time) * np.minimum((time[-1] - time) / 0.01, 1)
    waves = sum(share * np.sin(n * phase) for n, share in enumerate(_HARMONICS, 1))
    return np.asarray(0.5 * envelope * waves, np.float32)


def _drum(rng: np.random.Generator, beat: int) -> FloatArray:
    """A low thud on even beats, a hiss on odd ones."""
    time = np.arange(_BEAT, dtype=np.float32) / np.float32(SAMPLE_RATE)
    if beat % 2:
        return np.asarray(np.exp(-40 * time) * rng.standard_normal(_BEAT, np.float32), np.float32)
    return np.asarray(2 * np.exp(-20 * time) * np.sin(2 * np.pi * 60 * time * np.exp(-4 * time)), np.float32)
