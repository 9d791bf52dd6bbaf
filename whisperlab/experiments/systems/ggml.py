"""Whisper's weights in GGML, the format of whisper.cpp (its ``models/convert-pt-to-ggml.py`` defines it)."""

import struct
from pathlib import Path

import numpy as np

from whisperlab.model import weights as models
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.util.files import atomic_path

_FILTERS = Path(models.__file__).parent / "data" / "mel_filters.npz"
_SIZES = [f"n_{part}_{size}" for part in ("audio", "text") for size in ("ctx", "state", "head", "layer")]
_SINGLE = ("positional_embedding", "conv1.bias", "conv2.bias")  # in float32, as are vectors


def write_ggml(path: Path, weights: models.Weights) -> None:
    """Write the weights with mel filters and vocabulary; matrices in float16, as in whisper.cpp's own files."""
    tokenizer = tokenizer_for("en", weights.n_languages)
    tokens = [tokenizer.encoding.decode_single_token_bytes(number) for number in range(tokenizer.eot)]
    with atomic_path(path) as unfinished, unfinished.open("wb") as file, np.load(_FILTERS) as filters:
        filters = filters[f"mel_{weights.dims['n_mels']}"]
        sizes = [weights.dims[name] for name in ("n_vocab", *_SIZES, "n_mels")]
        file.write(struct.pack("<12i", 0x67676D6C, *sizes, 1))  # 1: float16
        file.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
        file.write(struct.pack("<i", len(tokens)))
        file.writelines(struct.pack("<i", len(token)) + token for token in tokens)
        for name in weights.state:
            values = weights.tensor(name).cpu().numpy()
            half = values.ndim > 1 and not name.endswith(_SINGLE)
            shape = (1, len(values)) if name.endswith(_SINGLE[1:]) else values.shape[::-1]
            file.write(struct.pack(f"<{3 + len(shape)}i", len(shape), len(name), half, *shape) + name.encode())
            file.write(values.astype("<f2" if half else "<f4").tobytes())
