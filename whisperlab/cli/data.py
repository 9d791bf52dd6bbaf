"""Speech with transcripts: build the corpora on this machine, list, describe, locate and play them.

The corpora are spliced human speech, not code-switching corpora. Each has a card with its contents and licences.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from whisperlab.cli.console import Console
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.errors import CorpusError, MissingDependencyError
from whisperlab.util.text_table import text_table

if TYPE_CHECKING:
    from whisperlab.data import Recording

HELP = "build, list, describe, locate and play speech corpora"
EXAMPLES = (
    "data build ivr-five ivr-en-es",
    "data list",
    "data info ivr-five",
    "data play ivr-five-test-00",
    "data path ivr-five-test-00",
)
_HEADERS = {"minutes": "audio (minutes)", "speech_s": "speech by language (s)"}
PLAYERS = (("pw-play",), ("paplay",), ("aplay", "-q"), ("play", "-q"), ("ffplay", "-nodisp", "-autoexit"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("build", help="build corpora from their packages, unless they exist").add_argument
    add("corpora", nargs="+", metavar="NAME", help="the corpora; data list names them")
    add("--seed", type=int, default=0, help="seed of the random order of the prompts")
    text = "a folder with the .deb files (default: download them)"
    add("--packages", type=Path, metavar="DIR", help=text)
    add("--accept-newer", action="store_true", help="accept packages of another version")
    actions.add_parser("list", help="list the corpora")
    info = actions.add_parser("info", help="describe a corpus or a manifest")
    info.add_argument("corpus", metavar="NAME|MANIFEST", help="a built corpus or your manifest")
    path = actions.add_parser("path", help="print the path of a recording's audio file")
    play = actions.add_parser("play", help="play a recording and print its reference in step")
    for action in (path, play):
        action.add_argument("recording", metavar="RECORDING", help="the id of a recording")
        text = "the manifest that contains the recording (default: by its id)"
        action.add_argument("--corpus", metavar="MANIFEST", help=text)
    play.add_argument("--silent", action="store_true", help="print only the reference")


def needs(args: argparse.Namespace) -> Needs:
    """PyAV for building: the prompts are in G.722."""
    return speech(*args.corpora) if args.action == "build" else {}


def run(args: argparse.Namespace, console: Console) -> int:
    actions = {"build": _build, "list": _list, "info": _info, "path": _path, "play": _play}
    actions[args.action](args, console)
    return 0


def _build(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    options = {"packages_dir": args.packages, "accept_newer": args.accept_newer, "say": console.note}
    folders = {name: str(data.build(name, args.seed, **options)) for name in args.corpora}
    console.result(folders, *(f"{name}: {folder}" for name, folder in folders.items()))


def _list(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    found = [data.info(name) for name in data.list_corpora()]
    rows = [
        {
            "name": corpus["name"],
            "languages": ",".join(corpus["languages"]),
            "built": "yes" if corpus["built"] else "no",
            "description": corpus["description"],
        }
        for corpus in found
    ]
    console.result(found, text_table(rows))


def _info(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    recordings = data.load(args.corpus, build_missing=False)
    splits = sorted({recording.split for recording in recordings})
    rows = [facts(split, [r for r in recordings if r.split == split]) for split in splits]
    about = data.info(args.corpus) if args.corpus in data.list_corpora() else None
    console.document({"corpus": args.corpus, "about": about, "splits": rows})
    if about:
        for lang, licence in about["licences"].items():
            console.show(f"{lang}: {licence}; {about['credits'][lang]}")
    console.show(text_table([{_HEADERS.get(name, name): value for name, value in row.items()} for row in rows]))


def facts(split: str, recordings: Sequence[Recording]) -> dict[str, object]:
    """The recordings of one split in numbers: count, minutes, switches, seconds of speech by language."""
    from whisperlab.data.manifest import Totals

    size = Totals.of(recordings)
    longest_first = sorted(size.speech_s.items(), key=lambda item: -item[1])
    return {
        "split": split,
        "recordings": size.recordings,
        "minutes": round(size.minutes, 1),
        "switches": size.switches,
        "noisy": size.noisy,
        "speech_s": " ".join(f"{lang}:{length_s:.0f}" for lang, length_s in longest_first),
    }


def _path(args: argparse.Namespace, console: Console) -> None:
    recording = find(args.recording, args.corpus)
    path = str(recording.audio_path.absolute())
    console.result({"id": recording.id, "path": path}, path)
    if recording.offset is not None:
        console.note(f"the recording is {recording.duration:.1f} s of this file, from {recording.offset:.1f} s on")


def _play(args: argparse.Namespace, console: Console) -> None:
    from whisperlab.data.audio_files import write_wav

    recording = find(args.recording, args.corpus)
    at = "" if recording.offset is None else f" from {recording.offset:.1f} s"
    console.note(f"{recording.audio_path} ({recording.duration:.1f} s{at})")
    if args.json:
        place = {"audio": str(recording.audio_path), "offset": recording.offset, "duration": recording.duration}
        console.document({"id": recording.id, **place})
    elif args.silent:
        follow(recording, console.show)
    else:
        with TemporaryDirectory(prefix="whisperlab-") as folder:
            audio = recording.audio_path.absolute()  # an absolute path is never taken for an option
            if recording.offset is not None:
                audio = Path(folder) / "part.wav"
                write_wav(audio, recording.audio())
            with subprocess.Popen([*player(), str(audio)]) as process:
                follow(recording, console.show)
                process.wait()


def find(name: str, manifest: str | None) -> Recording:
    """The recording with an id. Without a manifest, the id itself names the corpus and the split."""
    from whisperlab import data

    corpus = manifest or name.rpartition("-")[0].rpartition("-")[0]
    if manifest is None and (Path(name).exists() or corpus not in data.list_corpora()):
        kind = "a file" if Path(name).exists() else "no recording of a built corpus"
        raise CorpusError(
            f"{name!r} is {kind}: expected the id of a recording, such as ivr-five-test-00. For your own "
            "recordings add --corpus MANIFEST (data info MANIFEST describes it)"
        )
    recordings = data.load(corpus, build_missing=False)
    for recording in recordings:
        if recording.id == name:
            return recording
    raise CorpusError(f"no recording {name!r} in {corpus}; it has {', '.join(r.id for r in recordings)}")


def follow(
    recording: Recording,
    show: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show each reference segment at the time when it starts."""
    began = clock()
    for segment in recording.segments:
        sleep(max(0.0, began + segment.start - clock()))
        show(f"[{segment.start:.1f} - {segment.end:.1f}] {segment.lang}: {segment.text}")


def player() -> Sequence[str]:
    """The command of the first installed sound player."""
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    raise MissingDependencyError(
        "no sound player found (Debian: apt-get install alsa-utils); --silent prints the reference without sound"
    )
