"""Speech with transcripts: build the corpora on this machine, look at them, listen to them.

The corpora are spliced human speech, not code-switching corpora: their cards say what they are made of.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from whisperlab.cli.console import Console, table
from whisperlab.cli.needs import Needs, speech
from whisperlab.util.errors import CorpusError, MissingDependencyError

if TYPE_CHECKING:
    from whisperlab.data import Recording

HELP = "build, list, describe and play speech corpora"
EXAMPLES = (
    "data build ivr-five ivr-en-es",
    "data list",
    "data info ivr-five",
    "data play ivr-five-test-00",
)
PLAYERS = (("pw-play",), ("paplay",), ("aplay", "-q"), ("play", "-q"), ("ffplay", "-nodisp", "-autoexit"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``whisperlab data`` and its four actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="make corpora from their packages, unless they are there")
    build.add_argument("corpora", nargs="+", metavar="NAME")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--packages", type=Path, metavar="DIR", help="a folder with the .deb files")
    build.add_argument("--accept-newer", action="store_true", help="take packages of another version too")
    actions.add_parser("list", help="the corpora there are")
    info = actions.add_parser("info", help="what a corpus, or a manifest of your own, holds")
    info.add_argument("corpus", metavar="NAME|MANIFEST")
    play = actions.add_parser("play", help="hear a recording and see its reference as it is spoken")
    play.add_argument("recording", metavar="RECORDING", help="the id of a recording")
    play.add_argument("--corpus", metavar="MANIFEST", help="a manifest to find the recording in")
    play.add_argument("--silent", action="store_true", help="show the reference only")
    for action in actions.choices.values():
        # Also after the action; SUPPRESS, or the action's default would undo a --json before it.
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def needs(args: argparse.Namespace) -> Needs:
    """Building decodes prompts in G.722."""
    return speech(*args.corpora) if args.action == "build" else {}


def run(args: argparse.Namespace, console: Console) -> int:
    """Carry out one action."""
    actions: dict[str, Callable[[argparse.Namespace, Console], None]] = {
        "build": _build,
        "list": _list,
        "info": _info,
        "play": _play,
    }
    actions[args.action](args, console)
    return 0


def _build(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    folders = {
        name: data.build(
            name, args.seed, packages_dir=args.packages, accept_newer=args.accept_newer, say=console.note
        )
        for name in args.corpora
    }
    console.document({name: str(folder) for name, folder in folders.items()})
    for name, folder in folders.items():
        console.show(f"{name}: {folder}")


def _list(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    found = [data.info(name) for name in data.list_corpora()]
    console.document(found)
    console.show(
        table(
            [
                {
                    "name": corpus["name"],
                    "languages": ",".join(corpus["languages"]),
                    "built": "yes" if corpus["built"] else "no",
                    "description": corpus["description"],
                }
                for corpus in found
            ]
        )
    )


def _info(args: argparse.Namespace, console: Console) -> None:
    from whisperlab import data

    recordings = data.load(args.corpus, build_missing=False)
    splits = sorted({recording.split for recording in recordings})
    rows = [facts(split, [r for r in recordings if r.split == split]) for split in splits]
    terms = data.info(args.corpus) if args.corpus in data.list_corpora() else {}
    console.document({"corpus": args.corpus, "about": terms or None, "splits": rows})
    for lang, licence in terms.get("licences", {}).items():
        console.show(f"{lang}: {licence}; {terms['credits'][lang]}")
    console.show(table(rows))


def facts(split: str, recordings: Sequence[Recording]) -> dict[str, Any]:
    """What the recordings of one split come to: how many, how long, in which languages, how many switches."""
    languages = Counter[str]()
    for segment in (segment for recording in recordings for segment in recording.segments):
        languages[segment.lang] += round(segment.end - segment.start)
    return {
        "split": split,
        "recordings": len(recordings),
        "minutes": round(sum(recording.duration for recording in recordings) / 60, 1),
        "switches": sum(recording.switches for recording in recordings),
        "noisy": sum(recording.snr is not None for recording in recordings),
        "speech_s": " ".join(f"{lang}:{total_s}" for lang, total_s in languages.most_common()),
    }


def _play(args: argparse.Namespace, console: Console) -> None:
    from whisperlab.data.audio_files import write_wav

    recording = find(args.recording, args.corpus)
    at = "" if recording.offset is None else f" from {recording.offset:.1f} s"
    console.note(f"{recording.audio_path} ({recording.duration:.1f} s{at})")
    if args.json:
        console.document(
            {
                "id": recording.id,
                "audio": str(recording.audio_path),
                "offset": recording.offset,
                "duration": recording.duration,
            }
        )
    elif args.silent:
        follow(recording, console.show)
    else:
        with TemporaryDirectory(prefix="whisperlab-") as folder:
            audio = recording.audio_path.absolute()  # no name can be an option
            if recording.offset is not None:
                audio = Path(folder) / "part.wav"
                write_wav(audio, recording.audio())
            with subprocess.Popen([*player(), str(audio)]) as process:
                follow(recording, console.show)
                process.wait()


def find(name: str, manifest: str | None) -> Recording:
    """The recording of an id; without a manifest, in the corpus and split that the id itself names."""
    from whisperlab import data

    corpus = manifest or name.rpartition("-")[0].rpartition("-")[0]
    if manifest is None and (Path(name).exists() or corpus not in data.list_corpora()):
        kind = "a file" if Path(name).exists() else "no recording of a built corpus"
        raise CorpusError(
            f"{name!r} is {kind}: play takes the id of a recording, such as ivr-five-test-00; one of your own needs "
            "its manifest, too: play ID --corpus MANIFEST (data info MANIFEST lists what it holds)"
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
    """Show each reference segment when it begins."""
    began = clock()
    for segment in recording.segments:
        sleep(max(0.0, began + segment.start - clock()))
        show(f"[{segment.start:.1f} - {segment.end:.1f}] {segment.lang}: {segment.text}")


def player() -> Sequence[str]:
    """The command of the first sound player there is."""
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    raise MissingDependencyError(
        "no sound player (Debian: apt-get install alsa-utils); --silent shows the reference without sound"
    )
