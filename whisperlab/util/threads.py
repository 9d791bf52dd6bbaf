"""How many threads torch computes an operator with: one per transcriber, unless the user asks for more;
and which signals threads and new processes receive.

Threads of one operator wait for each other in a busy loop. On an idle machine of two cores a second thread saves a
fifth of the time; beside other busy processes it costs up to twenty times as much. `torch_threads` sets the number
around the work of a transcriber and restores the user's afterwards. It takes less than a microsecond.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from whisperlab.util.errors import ConfigurationError
from whisperlab.util.validation import check_type, shown

THREADS = 1  # the default of every entry point
MOST_THREADS = 256
WORTH = 0.75  # share of the time on one thread at which a second thread is worth a core, or below


def check_threads(n: int) -> int:
    """The number of threads, or ConfigurationError."""
    check_type("threads", n, int)
    if not 1 <= n <= MOST_THREADS:
        raise ConfigurationError(f"threads must be 1 to {MOST_THREADS}, got {shown(n)}")
    return n


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Compute with n threads inside an operator, in this Python thread, and restore the number that was set before."""
    import torch

    before = torch.get_num_threads()
    if before == n:
        yield
        return
    try:
        torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Processes started within never receive Ctrl-C, which is for the process that starts them; here it waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def second_thread(rounds: int = 30) -> float:
    """Time on two threads as a share of the time on one, now: the sum of rounds that run both in turn, about a second.

    The work is what an encoder block of Whisper base does with 2.5 s of audio: products, normalisation, GELU.
    """
    import torch
    from torch.nn.functional import gelu, layer_norm

    rows, narrow, wide = torch.randn(125, 512), torch.randn(512, 2048) / 32, torch.randn(2048, 512) / 64
    took = {1: 0, 2: 0}
    for number in range(rounds + 1):
        for n in took:
            with torch_threads(n), torch.inference_mode():
                began = perf_counter_ns()
                for _ in range(6):
                    layer_norm(gelu(rows @ narrow) @ wide, (512,))
                took[n] += (perf_counter_ns() - began) * (number > 0)  # the first round starts the threads
    return took[2] / took[1]
