"""Help, defaults, suggestions and option files of the command line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from whisperlab import cli
from whisperlab.cli import commands
from whisperlab.cli.arguments import Parser, languages_as_codes, parse
from whisperlab.cli.console import ERASE, Console
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.threads import THREADS


def all_parsers(parser: Parser) -> Iterator[Parser]:
    yield parser
    for one in parser.subparsers().values():
        yield from all_parsers(one)


def parsed(*words: object) -> argparse.Namespace:
    return parse(commands.build_parser(), [str(word) for word in words])


def test_the_program_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    streams = capsys.readouterr()
    assert streams.out.startswith("usage: whisperlab")
    assert "transcribe" in streams.out
    assert streams.err == ""


def test_every_option_has_a_description_and_its_default() -> None:
    for parser in all_parsers(commands.build_parser()):
        for action in parser._actions:
            assert action.help or isinstance(action.choices, dict), (
                f"{parser.prog} {action.option_strings or action.dest}"
            )
            if action.option_strings and action.nargs != 0 and not action.required:
                text = parser._get_formatter()._expand_help(action)
                assert "default" in text, f"{parser.prog} {action.option_strings}"
                assert text.count("(default") <= 1


@pytest.mark.parametrize(
    "words, suggestion",
    [
        (["transcrib"], "transcribe"),
        (["data", "lst"], "list"),
        (["bench", "pipline"], "pipeline"),
        (["transcribe", "a.wav", "--langages", "en"], "--languages"),
        (["data", "path", "a", "--copus", "x"], "--corpus"),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(
    words: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert f"did you mean '{suggestion}'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["sweep"], ["search", "--space", "{}"], ["profile", "a"]])
def test_english_names_of_languages_are_accepted(command: list[str]) -> None:
    args = parsed(*command, "--languages", "english,Spanish")
    languages_as_codes(args)
    assert args.languages == ["en", "es"]


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["sweep"], ["bench", "systems"]])
def test_commands_compute_on_the_default_number_of_threads(command: list[str]) -> None:
    assert parsed(*command).threads == THREADS


def test_common_options_stand_before_or_after_the_action() -> None:
    for words in (["data", "-q", "-v", "list"], ["data", "list", "-q", "-v"]):
        assert (parsed(*words).quiet, parsed(*words).verbose) == (True, 1)
    assert (parsed("data", "list").quiet, parsed("data", "list").verbose) == (False, 0)


@pytest.mark.parametrize(
    "words, printed",
    [((), "an info\n"), (("-q",), ""), (("-v",), "INFO whisperlab: an info\n"), (("-vv",), "DEBUG other: a debug\n")],
)
def test_log_messages_follow_quiet_and_verbose(
    words: tuple[str, ...], printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(*_: object) -> int:
        logging.getLogger("whisperlab").info("an info")
        logging.getLogger("other").debug("a debug")
        return 0

    monkeypatch.setattr("whisperlab.cli.doctor.run", log)
    assert cli.main(["doctor", *words]) == 0
    assert printed in capsys.readouterr().err
    assert cli.main(["doctor", "-q"]) == 0
    assert capsys.readouterr().err == ""


# ---- option files ----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.toml"


def test_options_come_from_a_file_and_the_command_line_wins(file: Path) -> None:
    file.write_text(
        """
        corpus = "mine.jsonl"
        limit = 2
        threads = 2
        [sweep]
        cache_sizes = [10, 20]
        keys = ["span", "similar"]
        shadow-rate = 0.5
        no-decode = true
        limit = 3
        [bench]
        memory = false
        """
    )
    args = parsed("sweep", "--config", file, "--threads", "1", "--keys", "rounded")
    assert (args.corpus, args.limit, args.threads, args.keys) == ("mine.jsonl", 3, 1, ["rounded"])
    assert (args.cache_sizes, args.shadow_rate, args.no_decode) == ([10, 20], 0.5, True)
    assert parsed("sweep", "--conf", file).limit == 3
    bench = parsed("bench", "systems", f"--config={file}")
    assert (bench.limit, bench.memory, bench.accuracy) == (2, False, True)


def test_an_action_and_a_required_option_come_from_a_file(file: Path) -> None:
    file.write_text('corpus = "mine.jsonl"\n[search]\nspace = "space.json"\n')
    assert parsed("data", "path", "one", "--config", file).corpus == "mine.jsonl"
    assert parsed("search", "--config", file).space == "space.json"


@pytest.mark.parametrize(
    "text, message",
    [
        ("cache_size = [10]", "sweep has no option 'cache_size'; did you mean 'cache-sizes'?"),
        ("[sweap]\nlimit = 1", "sweep has no option 'sweap'; did you mean 'sweep'?"),
        ("no-decode = 1", "no-decode: expected true or false, got 1"),
        ("limit = [[1]", "is not TOML"),
        ("limit = true", "limit: expected a text, a number or a list"),
        ("config = 'x'", "has no option 'config'"),
    ],
)
def test_a_wrong_option_file_is_one_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        parsed("sweep", "--config", file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_value_out_of_range_in_a_file_is_wrong_usage(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("limit = -1")
    with pytest.raises(SystemExit, match="2"):
        parsed("sweep", "--config", file)
    assert "argument --limit" in capsys.readouterr().err
    assert cli.main(["sweep", "--config", str(file.with_name("none.toml"))]) == 1


# ---- progress --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def refused(*_: object) -> None:
    """What starts no thread where memory is short."""
    raise RuntimeError("can't start new thread")


def ended(*_: object) -> None:
    """A thread that ends before its first line, for lack of memory: `threading.Thread.start` would wait forever."""


def test_long_work_says_at_once_what_runs_and_then_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperlab.cli.console.PERIOD_S", 0.01)
    for err, first, later in (
        (Terminal(), f"{ERASE}measuring\n", f"{ERASE}measuring: 0 s\n"),
        (io.StringIO(), "measuring\n", "measuring: 0 s\n"),
    ):
        with Console(io.StringIO(), err, json=False).busy("measuring"):
            assert err.getvalue().startswith(first)
            while later not in err.getvalue():
                time.sleep(0.01)
    silent = io.StringIO()
    with Console(io.StringIO(), silent, json=False, quiet=True).busy("measuring"):
        time.sleep(0.03)
    assert silent.getvalue() == ""


@pytest.mark.timeout(30)
@pytest.mark.parametrize("start", [refused, ended])
def test_where_no_thread_can_report_progress_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., None]
) -> None:
    monkeypatch.setattr("threading._start_new_thread", start)
    monkeypatch.setattr("_thread.start_new_thread", start)
    err = io.StringIO()
    with Console(io.StringIO(), err, json=False).busy("measuring"):
        pass
    assert err.getvalue() == "measuring\n"


@pytest.mark.parametrize(
    "line,found",
    [
        ("whisperlab tran", {"transcribe"}),
        ("whisperlab sweep --hash", {"--hash-precisions"}),
        ("whisperlab search --method a", {"adaptive"}),
    ],
)
def test_the_tab_key_completes_commands_and_options(tmp_path: Path, line: str, found: set[str]) -> None:
    """As argcomplete's shell function calls the program."""
    told = tmp_path / "completions"
    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(told)}
    environment = {**os.environ, **shell, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    subprocess.run([sys.executable, "-m", "whisperlab"], env=environment, check=True, timeout=60)
    assert {word.strip() for word in told.read_text().splitlines()} == found
