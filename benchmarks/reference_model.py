"""openai-whisper's own model with whisperlab's verified weights, to compare with, in twice the memory."""

from __future__ import annotations

from pathlib import Path

from whisper.model import ModelDimensions, Whisper

from whisperlab.model.weights import load_weights


def load_model(name_or_path: str | Path = "base") -> Whisper:
    """The model of a name or checkpoint (`load_weights`), with its name and alignment heads."""
    weights = load_weights(name_or_path)
    model = Whisper(ModelDimensions(**weights.dims))
    model.load_state_dict(weights.state)
    model.name = weights.name  # for configurations and reports
    model.register_buffer("alignment_heads", weights.alignment_heads.to_sparse(), persistent=False)
    return model.to(weights.device).eval()
