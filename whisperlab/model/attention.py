"""Attention of the text decoder: where words are in the audio, and which repetitions follow the speech."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

REPETITION = 4  # encoder positions (80 ms) between two repetitions; a repeated syllable takes longer


def repeated_tail(tokens: Sequence[int], longest: int = 12) -> tuple[int, int]:
    """Period and number of the repetitions that tokens end with: ``(n, times)``, ``(0, 0)`` when there are none.

    A repetition is an n-gram three times in a row, or a single token four times.

    >>> repeated_tail([5, 1, 2, 1, 2, 1, 2])
    (2, 3)
    """
    for n in range(1, min(longest, len(tokens)) + 1):
        unit, times = list(tokens[-n:]), 1
        while list(tokens[-n * (times + 1) : -n * times]) == unit:
            times += 1
        if times >= (4 if n == 1 else 3):
            return n, times
    return 0, 0


def following(places: NDArray[np.intp], period: int) -> int:
    """The number of repetitions of a text that follow speech that repeats; the others are a loop of the decoder.

    ``places`` are the positions that the repeated tokens attend to (`attended`), ``period`` the tokens of one
    repetition. In speech that repeats, attention moves on with each repetition. In a loop it returns to the same
    audio or stands still. All repetitions follow when the last three move on by `REPETITION` each on average, to
    later audio than any before. Otherwise those up to the first that does not move on.

    >>> following(np.array([5, 37, 46, 77, 87, 117]), 2), following(np.array([10, 25, 40, 11, 25, 40]), 3)
    (3, 1)
    """
    middles = np.median(places.reshape(-1, period), axis=1)
    if middles[-1] - middles[-3:][0] >= REPETITION * (len(middles[-3:]) - 1) and middles[-1] > middles[:-1].max():
        return len(middles)
    stops = np.flatnonzero(np.diff(np.maximum.accumulate(middles)) < REPETITION / 2)
    return int(stops[0]) + 1 if len(stops) else len(middles)


def looping(text: Sequence[int], places: Callable[[], NDArray[np.intp]]) -> int:
    """Number of tokens at the end of a text that repeat earlier text although the speech does not repeat.

    ``places`` computes the position that each token of the text attends to.
    """
    period, times = repeated_tail(text)
    return period * (times - following(places()[-period * times :], period)) if period else 0


def monotone_path(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """First column of each row on the cheapest monotone path through a cost matrix (dynamic time warping).

    The path runs from the first cell to the last with steps right, down or diagonal. Row by row
    ``D[i, j] = c[i, j] + min(D[i-1, j], D[i-1, j-1], D[i, j-1])``, where the last term is a running minimum.
    """
    n_rows, n_columns = cost.shape
    total = np.empty_like(cost)
    total[0] = np.cumsum(cost[0])
    for i in range(1, n_rows):
        above = total[i - 1]
        entry = np.minimum(above, np.concatenate(([np.inf], above[:-1])))
        so_far = np.cumsum(cost[i])
        total[i] = so_far + np.minimum.accumulate(entry - (so_far - cost[i]))
    first = np.zeros(n_rows, dtype=np.intp)
    j = n_columns - 1
    for i in range(n_rows - 1, 0, -1):
        above = np.minimum(total[i - 1], np.concatenate(([np.inf], total[i - 1, :-1])))
        while j > 0 and total[i, j - 1] < above[j]:
            j -= 1
        first[i] = j
        if j > 0 and total[i - 1, j - 1] <= total[i - 1, j]:
            j -= 1
    return first


def token_starts(attention: torch.Tensor, n_audio: int) -> NDArray[np.intp]:
    """Position at which each row of attention begins, from weights of shape (heads, rows, positions).

    As openai-whisper's word timestamps, without its just-in-time compiled path search (4 s to start).
    """
    return monotone_path(-_sharpened(attention, n_audio).double().cpu().numpy())


def attended(attention: torch.Tensor, n_audio: int) -> NDArray[np.intp]:
    """Position with the most attention of each row: as `token_starts`, but without a path, so rows may go back."""
    found: NDArray[np.intp] = _sharpened(attention, n_audio).argmax(-1).cpu().numpy()
    return found


def _sharpened(attention: torch.Tensor, n_audio: int) -> torch.Tensor:
    """Attention standardised over rows, smoothed over seven positions and averaged over heads: (rows, positions)."""
    weights = attention[:, :, : max(n_audio, 1)]
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    return median_filter((weights - mean) / (std + 1e-9), 7).mean(0)


def median_filter(x: torch.Tensor, width: int) -> torch.Tensor:
    """Median over ``width`` neighbours (odd) along the last dimension, shape (heads, rows, positions) to the same.

    Smooths attention for word times, as openai-whisper does. Values are mirrored at the ends. Rows of ``width // 2``
    values or fewer are returned as they are.
    """
    half = width // 2
    if x.shape[-1] <= half:
        return x
    return F.pad(x, (half, half), mode="reflect").unfold(-1, width, 1).sort()[0][..., half]
