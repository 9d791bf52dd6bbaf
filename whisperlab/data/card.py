"""The card of a built corpus: what is in it, where it comes from, whom to thank, what it is not."""

from __future__ import annotations

from collections.abc import Sequence

from whisperlab.data.debian import Package
from whisperlab.data.manifest import Recording
from whisperlab.data.prompts import SPLITS
from whisperlab.data.recipes import Recipe


def card(recipe: Recipe, seed: int, recordings: Sequence[Recording], packages: Sequence[Package]) -> str:
    """The text of CARD.md, with the header data cards have; no date in it, so that builds are the same."""
    return "\n".join(
        [
            *_header(recipe),
            f"# {recipe.name}, seed {seed}",
            "",
            f"{recipe.description[0].upper()}{recipe.description[1:]}.",
            "",
            "This is **spliced human speech, not a code-switching corpus**: telephone prompts, read by",
            "people, one after another. A splice is easier than a person who switches: keep them apart.",
            "",
            *_counts(recordings),
            _METHOD,
            *_credits(recipe),
            *_origin(packages),
        ]
    )


def _header(recipe: Recipe) -> list[str]:
    licences = sorted({voice.licence.lower().replace(" ", "-") for voice in recipe.voices})
    return [
        "---",
        f"pretty_name: {recipe.name}",
        f"language: [{', '.join(recipe.languages)}]",
        f"license: [{', '.join(licences)}]",
        "task_categories: [automatic-speech-recognition, audio-classification]",
        "---",
        "",
    ]


def _counts(recordings: Sequence[Recording]) -> list[str]:
    rows = [
        "## Counts",
        "",
        "| split | recordings | minutes | prompts | switches | seconds of speech |",
        "|-|-|-|-|-|-|",
    ]
    for split in SPLITS:
        ours = [r for r in recordings if r.split == split]
        cells = [
            split,
            str(len(ours)),
            f"{sum(r.duration for r in ours) / 60:.1f}",
            str(sum(len(r.segments) for r in ours)),
            str(sum(r.switches for r in ours)),
            _speech(ours),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return [*rows, ""]


def _speech(recordings: Sequence[Recording]) -> str:
    spoken: dict[str, float] = {}
    for segment in (segment for r in recordings for segment in r.segments):
        spoken[segment.lang] = spoken.get(segment.lang, 0.0) + segment.end - segment.start
    return ", ".join(f"{lang} {length:.0f}" for lang, length in sorted(spoken.items()))


_METHOD = """\
## How it is made

* Left out: digits, letters and other single words (`digits/`, `letters/`, `phonetic/`, `silence/`,
  `dictate/`), texts with brackets or signs nobody speaks, texts that lost accented letters to `?`, prompts
  with less than 1.5 s or more than 20 s of speech, and those with fewer than 5 or more than 28 characters a
  second. Of equal wordings one is kept.
* Trimmed to their speech (30 dB below the loud parts, to 10 ms) with 30 ms around it, and brought towards
  -20 dB of full scale by 6 dB at most. Segment times are those of the speech, not of the file.
* A scene has 8 to 20 blocks of one or two prompts in 40 to 90 seconds, with 0 to 600 ms between prompts;
  neighbouring blocks differ in language where there are two. No prompt is used twice in a split, no sentence
  twice in a scene.
* Every second scene is clean (pauses between prompts are digital silence). The others have pink noise, 20 dB
  and 10 dB below the speech in turn: `noise_snr_db` in the manifest.
* `dev` and `test` never share a sentence, in no language: prompts that say the same are found by their keys
  and their texts and go where a hash of the first key says, the same for every corpus and seed.
* Texts are the speakers' scripts. The Spanish ones mostly lack accents: score with diacritics folded. Some
  scripts differ from what was read.
"""


def _credits(recipe: Recipe) -> list[str]:
    lines = [f"* {v.language} ({v.lang}): {v.credit}. {v.licence}." for v in recipe.voices]
    note = "The audio here is a changed work (cut, levelled, joined, partly with noise) on the same terms."
    return ["## Licences and credits", "", *lines, "", note, ""]


def _origin(packages: Sequence[Package]) -> list[str]:
    rows = [f"| {p.name} | {p.version} | {p.sha256} |" for p in packages]
    return ["## Made from these Debian packages", "", "| package | version | SHA-256 |", "|-|-|-|", *rows, ""]
