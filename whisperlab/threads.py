"""How many threads torch computes an operator with, and which signals threads and new processes receive."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Run with n threads inside an operator, and put back what was before."""
    import torch

    before = torch.get_num_threads()
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
