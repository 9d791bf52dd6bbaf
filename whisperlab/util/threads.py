"""The number of torch's compute threads, background threads, signals of new processes."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter_ns

THREADS = 1  # the default: a second one saves a fifth of the time, or takes up to 20 times as long on a busy machine
MOST_THREADS = 256
WORTH = 0.75  # a second thread is worth a core if it reduces the time to this share or less


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Use n threads per operator in this Python thread, and restore the previous number afterwards."""
    import torch

    before = torch.get_num_threads()
    try:
        if before != n:
            torch.set_num_threads(n)
        yield
    finally:
        if before != n:
            torch.set_num_threads(before)


def start_background(work: Callable[[], None]) -> None:
    """Run a function in a daemon thread, if there is memory for one.

    `threading.Thread.start` would wait forever for a thread that ends before its first line for lack of memory
    (https://github.com/python/cpython/issues/140746). Here such a thread does nothing, or RuntimeError is raised.
    """

    def run() -> None:
        with suppress(MemoryError):
            work()

    _thread.start_new_thread(run, ())


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Start processes that never receive Ctrl-C. In this process Ctrl-C takes effect at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def first_signal(finish: Callable[[], object], numbers: Iterable[signal.Signals] = STOPS) -> Iterator[None]:
    """In the main thread, the first of these signals calls a function; the next one does as before."""
    in_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in numbers if in_main and signal.getsignal(n) != signal.SIG_IGN}

    def restore(*first: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        if first:
            finish()

    for number in before:
        signal.signal(number, restore)
    try:
        yield
    finally:
        restore()


def second_thread(rounds: int = 30) -> float:
    """Time on two threads divided by the time on one, for the work of an encoder block on 2.5 s; takes a second."""
    import torch
    from torch.nn.functional import gelu, layer_norm

    from whisperlab.util.timing import time_in_turns  # imports numpy and soxr

    rows, narrow, wide = torch.randn(125, 512), torch.randn(512, 2048) / 32, torch.randn(2048, 512) / 64

    def work(n: int) -> None:
        with torch_threads(n), torch.inference_mode():
            for _ in range(6):
                layer_norm(gelu(rows @ narrow) @ wide, (512,))

    times = time_in_turns({str(n): partial(work, n) for n in (1, 2)}, rounds + 1, perf_counter_ns)
    one, two = (sum(ms[1:]) for ms in times.values())  # the first round is a warm-up
    return two / one
