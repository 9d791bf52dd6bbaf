"""Attention heads that follow time, and the filter that smooths them: the parts of word times that need no audio.

The table is openai-whisper's (licence in ``data/``).
"""

from __future__ import annotations

import base64
import gzip

import torch
import torch.nn.functional as F

# Per model a gzipped mask of shape (decoder layers, heads): True where cross-attention follows the time of words.
_HEADS = {
    "tiny.en": b"ABzY8J1N>@0{>%R00Bk>$p{7v037`oCl~+#00",
    "tiny": b"ABzY8bu8Lr0{>%RKn9Fp%m@SkK7Kt=7ytkO",
    "base.en": b"ABzY8;40c<0{>%RzzG;p*o+Vo09|#PsxSZm00",
    "base": b"ABzY8KQ!870{>%RzyTQH3`Q^yNP!>##QT-<FaQ7m",
    "small.en": b"ABzY8>?_)10{>%RpeA61k&I|OI3I$65C{;;pbCHh0B{qLQ;+}v00",
    "small": b"ABzY8DmU6=0{>%Rpa?J`kvJ6qF(V^F86#Xh7JUGMK}P<N0000",
    "medium.en": b"ABzY8usPae0{>%R7<zz_OvQ{)4kMa0BMw6u5rT}kRKX;$NfYBv00*Hl@qhsU00",
    "medium": b"ABzY8B0Jh+0{>%R7}kK1fFL7w6%<-Pf*t^=N)Qr&0RR9",
    "large-v1": b"ABzY8r9j$a0{>%R7#4sLmoOs{s)o3~84-RPdcFk!JR<kSfC2yj",
    "large-v2": b"ABzY8zd+h!0{>%R7=D0pU<_bnWW*tkYAhobTNnu$jnkEkXqp)j;w1Tzk)UH3X%SZd&fFZ2fC2yj",
    "large-v3": b"ABzY8gWO1E0{>%R7(9S+Kn!D~%ngiGaR?*L!iJG9p-nab0JQ=-{D1-g00",
    "large": b"ABzY8gWO1E0{>%R7(9S+Kn!D~%ngiGaR?*L!iJG9p-nab0JQ=-{D1-g00",
    "large-v3-turbo": b"ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`",
    "turbo": b"ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`",
}


def alignment_heads(name: str | None, n_layers: int, n_heads: int) -> torch.Tensor:
    """The heads to place words with, shape (layers, heads), bool; for an unknown model the later half of the layers.

    >>> alignment_heads("base", 6, 8).sum()
    tensor(8)
    """
    if name is None:
        return torch.arange(n_layers)[:, None].expand(n_layers, n_heads) >= n_layers // 2
    mask = gzip.decompress(base64.b85decode(_HEADS[name]))
    return torch.tensor(list(mask), dtype=torch.bool).reshape(n_layers, n_heads)


def median_filter(x: torch.Tensor, width: int) -> torch.Tensor:
    """Median over ``width`` neighbours (odd) along the last dimension, shape (heads, rows, positions) to the same.

    Values are mirrored at the ends. Rows of ``width // 2`` values or fewer are returned as they are.
    """
    half = width // 2
    if x.shape[-1] <= half:
        return x
    return F.pad(x, (half, half), mode="reflect").unfold(-1, width, 1).sort()[0][..., half]
