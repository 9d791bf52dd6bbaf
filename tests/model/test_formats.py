"""Checkpoints of Hugging Face and CTranslate2: the same weights as openai-whisper's, or an error that says why not."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np
import pytest
import torch
from ctranslate2.specs import WhisperSpec
from safetensors.torch import save_file
from test_weights import SMALL, ct2_bytes, ct2_variables, put, small_state

from whisperlab import SessionRestartTranscriber
from whisperlab import data as corpora
from whisperlab.data.audio_files import read_audio
from whisperlab.model import weights as models
from whisperlab.model.checkpoints import tensor_digest, tensor_shapes
from whisperlab.model.tokenizer import tokenizer_for
from whisperlab.util.errors import ConfigurationError, UnknownLanguageError, WeightsError

if TYPE_CHECKING:
    from conftest import Scene

# Hugging Face's names for parts of openai-whisper's, as in the state of transformers' WhisperForConditionalGeneration.
THEIRS = (
    (r"^", "model."),
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"\.(query|key|value)\.", lambda match: f".{match[1][0]}_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"coder\.ln(_post)?\.", "coder.layer_norm."),
    (r"positional_embedding$", "embed_positions.weight"),
    (r"token_embedding", "embed_tokens"),
)

# The sizes that OpenAI published: mel bands, state, encoder layers, decoder layers, tokens.
PUBLISHED = {
    "tiny": (80, 384, 4, 4, 51_865),
    "tiny.en": (80, 384, 4, 4, 51_864),
    "base": (80, 512, 6, 6, 51_865),
    "base.en": (80, 512, 6, 6, 51_864),
    "small": (80, 768, 12, 12, 51_865),
    "small.en": (80, 768, 12, 12, 51_864),
    "medium": (80, 1024, 24, 24, 51_865),
    "medium.en": (80, 1024, 24, 24, 51_864),
    "large-v2": (80, 1280, 32, 32, 51_865),
    "large-v3": (128, 1280, 32, 32, 51_866),
    "turbo": (128, 1280, 32, 4, 51_866),
}


def dims_of(n_mels: int, state: int, n_audio: int, n_text: int, n_vocab: int) -> dict[str, int]:
    heads = {"n_audio_head": state // 64, "n_text_head": state // 64, "n_audio_layer": n_audio, "n_text_layer": n_text}
    context = {"n_audio_ctx": 1500, "n_text_ctx": 448}
    return {"n_mels": n_mels, "n_vocab": n_vocab, "n_audio_state": state, "n_text_state": state, **heads, **context}


def random_state(dims: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Weights of any size from one block of random numbers, which takes seconds for the largest.

    The text is random but confident, and the position decides on a token more than the token before it. So most of it
    is neither dropped as invented nor cut as a loop.
    """
    block = torch.randn(99_991, generator=torch.Generator().manual_seed(0)).half()
    state = {}
    for name, shape in tensor_shapes(dims):
        values = block.repeat(math.prod(shape) // len(block) + 1)[: math.prod(shape)].view(shape)
        state[name] = values / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else 64)
    state["decoder.ln.weight"].fill_(1)
    state["decoder.token_embedding.weight"] *= 10
    state["decoder.positional_embedding"] *= 12 * math.sqrt(dims["n_text_state"])
    return state


def theirs(name: str) -> str:
    for pattern, replacement in THEIRS:
        name = re.sub(pattern, replacement, name)
    return name


def config_of(dims: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "whisper",
        "activation_function": "gelu",
        "scale_embedding": False,
        "num_mel_bins": dims["n_mels"],
        "vocab_size": dims["n_vocab"],
        "d_model": dims["n_audio_state"],
        "max_source_positions": dims["n_audio_ctx"],
        "max_target_positions": dims["n_text_ctx"],
        "encoder_layers": dims["n_audio_layer"],
        "decoder_layers": dims["n_text_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "decoder_attention_heads": dims["n_text_head"],
    }


def hugging_face(
    folder: Path, dims: Mapping[str, int] = SMALL, state: Mapping[str, torch.Tensor] | None = None, n_files: int = 1
) -> Path:
    """A model as transformers saves it, in one file or in several with their index."""
    folder.mkdir(exist_ok=True)
    stored = {theirs(name): tensor for name, tensor in (small_state(dims) if state is None else state).items()}
    write_json(folder / "config.json", config_of(dims))
    if n_files == 1:
        save_file(stored, folder / "model.safetensors")
        return folder
    names = [f"model-{number:05}-of-{n_files:05}.safetensors" for number in range(1, n_files + 1)]
    places = {name: names[number % n_files] for number, name in enumerate(stored)}
    for file in names:
        save_file({name: tensor for name, tensor in stored.items() if places[name] == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def ct2_folder(folder: Path, dims: Mapping[str, int], state: Mapping[str, torch.Tensor], kind: str = "float16") -> Path:
    """A folder written by CTranslate2 itself, as its converter does it after reading a model."""
    spec = WhisperSpec(dims["n_audio_layer"], dims["n_audio_head"], dims["n_text_layer"], dims["n_text_head"])
    for name, value in ct2_variables(state, dims).items():
        *path, leaf = name.split("/")
        owner: Any = spec
        for part in path:
            base, _, number = part.rpartition("_")
            owner = getattr(owner, part) if hasattr(owner, part) else getattr(owner, base)[int(number)]
        setattr(owner, leaf, value)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_vocabulary([str(number) for number in range(dims["n_vocab"])])
    spec.config.alignment_heads = [(5, 7), (3, 1)]
    spec.validate()
    spec.optimize(quantization=kind)
    folder.mkdir()
    spec.save(str(folder))
    return folder


# Hugging Face


@pytest.mark.parametrize("n_files", [1, 3])
def test_a_model_of_hugging_face_has_the_very_weights_in_one_file_and_in_shards(tmp_path: Path, n_files: int) -> None:
    folder = hugging_face(tmp_path / "mine", n_files=n_files)
    weights = models.load_weights(folder)
    assert tensor_digest(weights.state) == tensor_digest(small_state())
    assert (weights.name, dict(weights.dims)) == (str(folder), SMALL)
    assert models.verify(folder).evidence == "no digest is known for it"
    if n_files == 1:
        assert tensor_digest(models.load_weights(folder / "model.safetensors").state) == tensor_digest(small_state())


def test_an_older_model_of_hugging_face_is_read_from_its_pickle_without_running_it(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    stored = {theirs(name): tensor for name, tensor in small_state().items()}
    stored["proj_out.weight"] = stored["model.decoder.embed_tokens.weight"]
    torch.save(stored, folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        assert tensor_digest(models.load_weights(path).state) == tensor_digest(small_state())


def test_the_alignment_heads_of_a_folder_are_used(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "mine")
    write_json(folder / "generation_config.json", {"alignment_heads": [[5, 7], [3, 1]]})
    assert models.load_weights(folder).alignment_heads.nonzero().tolist() == [[3, 1], [5, 7]]


def lacking(folder: Path, file: str) -> None:
    (folder / file).unlink()


def configured(folder: Path, **changes: object) -> None:
    write_json(folder / "config.json", config_of(SMALL) | changes)


def stored_with(folder: Path, **changes: torch.Tensor) -> None:
    save_file({theirs(name): tensor for name, tensor in small_state().items()} | changes, folder / "model.safetensors")


def adapter(folder: Path) -> None:
    lacking(folder, "model.safetensors")
    write_json(folder / "adapter_config.json", {})


def indexed_outside(folder: Path) -> None:
    lacking(folder, "model.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../other/model.safetensors"}})


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


NORM = "model.decoder.layer_norm.weight"


@pytest.mark.parametrize(
    "damage,reason",
    [
        (lambda folder: lacking(folder, "model.safetensors"), "has no model; expected model.safetensors and config"),
        (lambda folder: lacking(folder, "config.json"), "config.json is needed and cannot be read"),
        (lambda folder: put(folder / "config.json", b"[]"), "config.json should hold a JSON object"),
        (lambda folder: configured(folder, model_type="wav2vec2"), "model_type should be 'whisper', it is 'wav2vec2'"),
        (lambda folder: configured(folder, scale_embedding=True), "scale_embedding should be False, it is True"),
        (lambda folder: configured(folder, d_model=None), "its dims are"),
        (lambda folder: configured(folder, decoder_layers=7), "decoder.blocks.6.attn.query.weight should have shape"),
        (adapter, "has an adapter (LoRA): merge it"),
        (indexed_outside, "a weight_map with the names of files in its folder"),
        (cut, "cannot be read as safetensors"),
        (lambda folder: stored_with(folder, **{NORM: torch.ones(8, dtype=torch.int8)}), "should be a tensor of floats"),
        (lambda folder: stored_with(folder, **{NORM: torch.full((8,), torch.nan)}), "8 of 8 weights in decoder.ln"),
        (
            lambda folder: stored_with(folder, lora_A=torch.ones(3)),
            "tensors that Whisper does not have, such as lora_A",
        ),
        (lambda folder: stored_with(folder, **{"proj_out.weight": torch.ones(10, 8)}), "output layer of its own"),
        (lambda folder: put(folder / "generation_config.json", b'{"alignment_heads": [[6, 0]]}'), "head 0 of layer 6"),
        (lambda folder: put(folder / "generation_config.json", b'{"alignment_heads": [7]}'), "are malformed"),
        (lambda folder: put(folder / "added_tokens.json", b'{"word": "one"}'), "are malformed"),
        (lambda folder: put(folder / "tokenizer.json", b'{"added_tokens": [{"id": 3}]}'), "are malformed"),
    ],
)
def test_a_model_of_hugging_face_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    folder = hugging_face(tmp_path / "mine")
    damage(folder)
    with pytest.raises(WeightsError, match=re.escape(reason)):
        models.load_weights(folder)


# CTranslate2


def test_a_folder_that_ctranslate2_wrote_has_the_very_weights_and_heads(tmp_path: Path) -> None:
    state = small_state()
    for conv in ("conv1", "conv2"):
        state[f"encoder.{conv}.bias"] = torch.zeros(8).half()  # stored once, with a second name
    folder = ct2_folder(tmp_path / "mine", SMALL, state)
    for path in (folder, folder / "model.bin"):
        weights = models.load_weights(path)
        assert tensor_digest(weights.state) == tensor_digest(state)
        assert weights.alignment_heads.nonzero().tolist() == [[3, 1], [5, 7]]


@pytest.mark.parametrize("kind", ["int8_float16", "int16", "bfloat16"])
def test_weights_that_ctranslate2_quantised_are_within_half_a_step(tmp_path: Path, kind: str) -> None:
    weights = models.load_weights(ct2_folder(tmp_path / "mine", SMALL, small_state(), kind))
    for name, exact in small_state().items():
        wanted, found = (tensor.float().reshape(len(exact), -1) for tensor in (exact, weights.tensor(name)))
        step = wanted.abs().amax(1, keepdim=True) / 127 if exact.dim() > 1 or kind == "bfloat16" else torch.zeros(1)
        assert bool(((found - wanted).abs() <= 0.501 * step).all()), name


@pytest.mark.parametrize("content", [b"", b"\6\0\0\0", bytes(100), ct2_bytes({"encoder/num_heads": np.array(3, "i2")})])
def test_a_damaged_model_of_ctranslate2_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WeightsError, match=r"model\.bin"):
        models.load_weights(put(tmp_path / "mine" / "model.bin", content))


# Damage


@pytest.mark.parametrize("places", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_damage_at_any_place_is_refused_or_changes_values_alone(tmp_path: Path, places: int) -> None:
    dims = {**SMALL, "n_audio_layer": 1, "n_text_layer": 1}
    folder = hugging_face(tmp_path / "theirs", dims)
    write_json(folder / "generation_config.json", {"alignment_heads": [[0, 7]]})
    write_json(folder / "added_tokens.json", {"word": 9})
    other = ct2_folder(tmp_path / "ct2", dims, small_state(dims))
    (other / "config.json").write_text('{"alignment_heads": [[0, 7]]}')
    draw = random.Random(0)
    files = [path for path in (*folder.iterdir(), *other.iterdir()) if path.name != "vocabulary.json"]
    for path in files:
        whole = path.read_bytes()
        for _ in range(places):
            damaged = bytearray(whole)
            at = draw.randrange(min(len(whole), draw.choice((64, 4000, len(whole)))))  # most of it in the header
            if draw.random() < 0.2:
                del damaged[at:]
            else:
                damaged[at] = draw.choice(b'\0\1\xff-9[]{}",' + bytes([draw.randrange(256)]))
            path.write_bytes(damaged)
            try:
                loaded = models.load_weights(path.parent)
            except WeightsError:
                continue
            assert loaded.state.keys() == dict(tensor_shapes(loaded.dims)).keys()
        path.write_bytes(whole)


# The real models


@pytest.mark.model
def test_the_real_base_has_the_same_tensors_in_every_format(tmp_path: Path) -> None:
    base = models.load_weights("base")
    state = {name: tensor.clone() for name, tensor in base.state.items()}
    for path in (hugging_face(tmp_path / "hugging-face", base.dims, state, n_files=2), models.ct2_folder("base")):
        weights = models.load_weights(path)
        assert (weights.name, weights.dims) == ("base", base.dims)
        assert tensor_digest(weights.state) == models.PACKAGED["base"].tensors
        assert torch.equal(weights.alignment_heads, base.alignment_heads)


@pytest.mark.model
@pytest.mark.slow
def test_the_real_tiny_en_transcribes_english_and_has_the_heads_that_its_publisher_states() -> None:
    recording = corpora.load("ivr-en-es", "dev")[0]
    segment = next(segment for segment in recording.segments if segment.lang == "en")
    audio = read_audio(recording.audio_path)[round(segment.start * 16_000) : round(segment.end * 16_000)]
    transcriber = SessionRestartTranscriber("tiny.en", language="en")
    heard = transcriber.process(audio).committed + transcriber.finalize().committed
    spoken = set(re.findall(r"[a-z]+", segment.text.lower()))
    assert len(spoken & set(re.findall(r"[a-z]+", heard.lower()))) > 0.7 * len(spoken)
    stated = json.loads((models.ct2_folder("tiny.en") / "config.json").read_text())["alignment_heads"]
    assert models.load_weights("tiny.en").alignment_heads.nonzero().tolist() == stated


# Sizes and vocabularies


def run(path: Path, scene: Scene, **options: Any) -> tuple[SessionRestartTranscriber, str]:
    """Stream a moment of speech through a model with random weights; returns its text, which is random too."""
    transcriber = SessionRestartTranscriber(path, **options)
    results = [transcriber.process(scene.audio[:40_000]), transcriber.finalize()]
    assert transcriber.get_statistics()["sessions"]["decodes"] > 0
    segments = [segment for result in results for segment in result.segments]
    assert all(segment.language in transcriber.languages for segment in segments)
    text = "".join(segment.text for segment in segments)
    assert "<|" not in text
    return transcriber, text


@pytest.mark.parametrize("n_audio,n_text", [(5, 4), (4, 1)], ids=["large-v3", "turbo"])
def test_a_model_built_as_large_v3_or_turbo_runs_with_cantonese(
    tmp_path: Path, scene: Scene, n_audio: int, n_text: int
) -> None:
    dims = dims_of(128, 64, n_audio, n_text, 51_866)
    folder = hugging_face(tmp_path / "mine", dims, random_state(dims))
    transcriber, text = run(folder, scene)
    assert text
    assert len(transcriber.languages) == 100
    assert "yue" in transcriber.languages
    assert transcriber.get_statistics()["lid"]["frames"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED)
def test_a_model_of_every_published_size_runs(tmp_path: Path, scene: Scene, size: str) -> None:
    dims, options = (
        dims_of(*PUBLISHED[size]),
        {"language": "en"} if size.endswith(".en") else {"languages": ["en", "es"]},
    )
    with TemporaryDirectory(dir=tmp_path) as folder:  # pytest would keep it: up to 3 GB
        run(hugging_face(Path(folder), dims, random_state(dims)), scene, **options)


def test_a_model_for_english_alone_needs_english_as_the_given_language(tmp_path: Path, scene: Scene) -> None:
    dims = dims_of(80, 64, 4, 1, 51_864)
    folder = hugging_face(tmp_path / "mine", dims, random_state(dims))
    assert run(folder, scene, language="en")[1]
    for options in ({}, {"languages": ["en"]}):
        with pytest.raises(ConfigurationError, match=r"knows English only.*set language='en' \(--language en\)"):
            SessionRestartTranscriber(folder, **options)
    with pytest.raises(UnknownLanguageError, match="does not support 'es': use one that does, base"):
        SessionRestartTranscriber(folder, language="es")


def test_tokens_that_a_fine_tune_added_are_text_if_the_folder_says_so_and_never_chosen_otherwise(
    tmp_path: Path, scene: Scene
) -> None:
    dims = dims_of(80, 64, 4, 1, 51_872)  # two words, one symbol, and rows that fill up to a multiple of eight
    state = random_state(dims)
    state["decoder.token_embedding.weight"][51_865:] *= 4  # likelier or less likely than any other token
    folder = hugging_face(tmp_path / "mine", dims, state)
    assert (models.load_weights(folder).n_languages, models.load_weights(folder).added) == (99, ())
    assert not re.search("whisperlab| alt", run(folder, scene, languages=["en", "es"])[1])
    told = [
        {"id": 50_257, "content": "<|endoftext|>", "special": True},
        {"id": 50_400, "content": "early", "special": False},
        {"id": 51_865, "content": "whisperlab", "special": False},
        {"id": 51_866, "content": " alt", "special": False},
        {"id": 51_867, "content": "<|emotion|>", "special": False},
        {"id": 60_000, "content": "beyond", "special": False},
    ]
    write_json(folder / "tokenizer.json", {"added_tokens": told})
    weights = models.load_weights(folder)
    assert weights.added == ((50_400, "early"), (51_865, "whisperlab"), (51_866, " alt"))
    tokenizer = tokenizer_for("en", 99, weights.added)
    word = tokenizer.encode(" say")
    assert tokenizer.decode([*word, 51_866, tokenizer.timestamp_begin + 7, 51_865, 50_400]) == " say altwhisperlabearly"
    assert tokenizer.split_to_word_tokens([*word, 51_866, *word])[0] == [" say", " alt", " say"]
    text = run(folder, scene, languages=["en", "es"])[1]
    assert re.search("whisperlab| alt", text)
    assert "emotion" not in text


def test_a_fine_tune_of_a_model_for_english_is_known_by_its_first_token(tmp_path: Path) -> None:
    dims = {**SMALL, "n_vocab": 51_865}
    folder = hugging_face(tmp_path / "mine", dims)
    assert models.load_weights(folder).n_languages == 99
    write_json(folder / "added_tokens.json", {"<|startoftranscript|>": 50_257, "whisperlab": 51_864})
    assert models.load_weights(folder).n_languages == 1


def test_ctranslate2s_own_engine_reads_the_folder_of_the_test(tmp_path: Path) -> None:
    """What the tests above take for a folder of CTranslate2 is one."""
    engine = ctranslate2.models.Whisper(str(ct2_folder(tmp_path / "mine", SMALL, small_state())))
    assert engine.is_multilingual in (True, False)
