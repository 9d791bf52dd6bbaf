"""The card of a built corpus: contents, origin, credits, licences and limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whisperlab.data.debian import Package
from whisperlab.data.manifest import Recording, Totals
from whisperlab.data.prompts import SPLITS
from whisperlab.data.recipes import Recipe


def card(recipe: Recipe, seed: int, recordings: Sequence[Recording], packages: Sequence[Package]) -> str:
    """The text of CARD.md with the usual header of data cards. It has no date, so that builds are identical."""
    licences = sorted({voice.licence.lower().replace(" ", "-") for voice in recipe.voices})
    credits = [f"* {v.language} ({v.lang}): {v.credit}. {v.licence}." for v in recipe.voices]
    origin = [f"| {p.name} | {p.version} | {p.sha256} |" for p in packages]
    return f"""\
---
pretty_name: {recipe.name}
language: [{", ".join(recipe.languages)}]
license: [{", ".join(licences)}]
task_categories: [automatic-speech-recognition, audio-classification]
---

# {recipe.name}, seed {seed}

{recipe.description[0].upper()}{recipe.description[1:]}.

This is **spliced human speech, not a code-switching corpus**: telephone prompts, read by people,
one after another. A splice is easier than a speaker switching: do not mix the two in results.

## Counts

| split | recordings | minutes | prompts | switches | seconds of speech |
|-|-|-|-|-|-|
{_NEWLINE.join(_counts(recordings))}

{_METHOD}
## Licences and credits

{_NEWLINE.join(credits)}

This audio is an adapted work (cut, levelled, joined, partly with noise) under the same licences.

## Made from these Debian packages

| package | version | SHA-256 |
|-|-|-|
{_NEWLINE.join(origin)}
"""


def _counts(recordings: Sequence[Recording]) -> Iterator[str]:
    """The rows of the table, one per split."""
    for split in SPLITS:
        size = Totals.of([r for r in recordings if r.split == split])
        spoken = ", ".join(f"{lang} {length_s:.0f}" for lang, length_s in size.speech_s.items())
        cells = (split, size.recordings, f"{size.minutes:.1f}", size.segments, size.switches, spoken)
        yield f"| {' | '.join(map(str, cells))} |"


_NEWLINE = "\n"  # f-strings of Python 3.11 cannot contain it
_METHOD = """\
## How it is made

* Excluded: digits, letters and other single words (`digits/`, `letters/`, `phonetic/`, `silence/`,
  `dictate/`), texts with brackets or symbols, texts with `?` in place of accented letters, prompts with less
  than 1.5 s or more than 20 s of speech, and prompts with fewer than 5 or more than 28 characters per second.
  Of prompts with the same words, one is kept.
* Prompts are trimmed to their speech (30 dB below the loud parts, to 10 ms) plus 30 ms on each side. Their
  level is moved towards -20 dB of full scale by at most 6 dB. Segment times are those of the speech.
* A scene has 8 to 20 blocks of one or two prompts in 40 to 90 seconds, with 0 to 600 ms between prompts;
  neighbouring blocks differ in language where there are two. No prompt is used twice in a split, no sentence
  twice in a scene.
* Every second scene is clean (pauses between prompts are digital silence). The others have pink noise,
  alternately 20 dB and 10 dB below the speech: `noise_snr_db` in the manifest.
* `dev` and `test` never share a sentence, in any language. Prompts with the same sentence are found by their
  keys and texts. A hash of the first key assigns them to a split, the same in every corpus and seed.
* Texts are the speakers' scripts. Most Spanish scripts lack accents: score with diacritics folded. Some
  scripts differ from the recording.
"""
