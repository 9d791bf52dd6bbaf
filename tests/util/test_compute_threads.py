"""How many threads torch computes with: one per transcriber unless the user asks for more; the user's setting stays."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from whisperlab import SessionRestartTranscriber
from whisperlab.cli.arguments import model_options
from whisperlab.cli.commands import build_parser
from whisperlab.cli.sweep import shared
from whisperlab.config import SessionOptions
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.errors import AudioFormatError, ConfigurationError, StreamBrokenError
from whisperlab.util.threads import second_thread, torch_threads
from whisperlab.util.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from conftest import Scene
    from whisper.model import Whisper


class ThreadsInUse(TorchFunctionMode):
    """Collects how many threads torch has at each operator of this Python thread; interrupts the ``last`` one."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.seen: list[int] = []
        self._last = last

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.layer_norm:
            self.seen.append(torch.get_num_threads())
            if len(self.seen) == self._last:
                raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """A user who has set torch to three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def speech(scene: Scene) -> FloatArray:
    return scene.audio[: 2 * SAMPLE_RATE]


def make(model: Whisper, **options: Any) -> SessionRestartTranscriber:
    return SessionRestartTranscriber(model, languages=["en", "es"], lid_hop_ms=200, **options)


def in_a_new_thread(call: Callable[[], int]) -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.model
@pytest.mark.parametrize("options", [{}, {"threads": 2}], ids=["by default", "two asked for"])
def test_a_transcriber_computes_with_its_own_threads_and_leaves_the_users_setting(
    base_model: Whisper, speech: FloatArray, options: dict[str, int]
) -> None:
    wanted = options.get("threads", 1)
    with ThreadsInUse() as use:
        transcriber = make(base_model, **options)
        assert (transcriber.config()["compute"]["threads"], torch.get_num_threads()) == (wanted, 3)
        calls: list[Callable[[], object]] = [
            lambda: transcriber.process(speech[: SAMPLE_RATE * 3 // 2]),
            lambda: transcriber.skip(SAMPLE_RATE),
            lambda: transcriber.process(speech[SAMPLE_RATE:]),
            transcriber.finalize,
            transcriber.reset,
        ]
        for call in calls:
            call()
            assert torch.get_num_threads() == 3
    assert set(use.seen) == {wanted}


@pytest.mark.model
@pytest.mark.parametrize("parallel_ms", [0, 400])
def test_the_users_setting_is_left_after_errors_too(base_model: Whisper, speech: FloatArray, parallel_ms: int) -> None:
    transcriber = make(base_model, session=SessionOptions(parallel_ms=parallel_ms))
    with pytest.raises(AudioFormatError):
        transcriber.process(np.array(["no audio"]))
    with ThreadsInUse(last=5), pytest.raises(KeyboardInterrupt):
        transcriber.process(speech)
    with pytest.raises(StreamBrokenError):
        transcriber.finalize()
    assert torch.get_num_threads() == 3
    assert in_a_new_thread(torch.get_num_threads) == 3


@pytest.mark.model
@pytest.mark.parametrize("threads", [0, -1, 257, 10**30, 1.5, "2", True, None])
def test_a_number_of_threads_that_cannot_be_is_refused(base_model: Whisper, threads: Any) -> None:
    with pytest.raises(ConfigurationError, match="threads must be"):
        make(base_model, threads=threads)


def test_the_setting_is_put_back_after_an_error_and_when_nested() -> None:
    def fail() -> None:
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), torch_threads(2), torch_threads(1):
        fail()
    assert torch.get_num_threads() == 3


def test_the_gain_of_a_second_thread_is_measured_and_leaves_the_setting() -> None:
    assert 0 < second_thread(rounds=3) < float("inf")
    assert torch.get_num_threads() == 3


COMMANDS = {
    "transcribe": ["a.wav"],
    "listen": [],
    "profile": ["a.wav"],
    "sweep": [],
    "search": ["--space", "{}"],
    "compare": ["{}", "{}"],
    "bench": ["systems"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_computes_has_one_thread_unless_more_are_asked_for(command: str) -> None:
    def parsed(*more: str) -> argparse.Namespace:
        return build_parser().parse_args([command, *COMMANDS[command], *more])

    assert parsed().threads in (1, None)
    assert parsed("--threads", "2").threads == 2
    with pytest.raises(SystemExit):
        parsed("--threads", "0")
    if command in ("transcribe", "profile"):
        assert model_options(parsed("--threads", "2"))["threads"] == 2
    if command in ("sweep", "search"):
        assert shared(parsed("--threads", "2"), [])["compute.threads"] == 2
