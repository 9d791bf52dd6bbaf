"""simulstream's Whisper agents: a sliding window is decoded anew and joined with the text before, also behind a VAD.

simulstream takes models of Hugging Face: the tensors get their names there, and the folder of CTranslate2 has the
tokenizer and the token lists.
"""

import json
import tempfile
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

import torch
from simulstream.server.speech_processors import build_speech_processor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

# As in simulstream's example for models of Hugging Face. It takes the 80 mel bands of Whisper for frames of 10 ms, so
# that 10 tokens per second of the window are 150 of its "seconds".
OPTIONS = {"speech_chunk_size": 2.0, "window_len": 12, "matching_threshold": 0.1, "max_tokens_per_second": 150}
PROCESSORS = "simulstream.server.speech_processors."


def load(request):
    torch.set_num_threads(request["threads"])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, ct2 = request["weights"]
        convert(torch.load(checkpoint, weights_only=True), Path(ct2), request["hugging_face"], folder)
        options = {name: PROCESSORS + value for name, value in request["arguments"].items()}
        processor = build_speech_processor(SimpleNamespace(hf_model_name=folder, **OPTIONS, **options))

    def run(stream):
        processor.clear()
        steps, kept, tokens = [], [], []
        for chunk in stream.chunks(OPTIONS["speech_chunk_size"]):
            found = processor.process_chunk(chunk)
            kept.append(len(tokens) - len(found.deleted_tokens))
            tokens = tokens[: kept[-1]] + found.new_tokens
            steps.append((tokens, stream.clocks()))
        # As in simulstream's reader, a token is final when no later step deletes it.
        lasting, done, text = [*accumulate([len(tokens), *kept[:0:-1]], min)][::-1], 0, processor.tokens_to_string
        for (shown, clocks), final in zip(steps, lasting, strict=True):
            stream.show(text(shown[done:final]), text(shown[final:]), **clocks)
            done = final

    return run


def convert(checkpoint, ct2, tables, folder):
    """Write a folder of Hugging Face from openai-whisper's checkpoint, with CTranslate2's tokenizer and token lists."""
    (dims, names), lists = tables.values(), json.loads((ct2 / "config.json").read_text())
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(ct2 / "tokenizer.json"))
    ids = {token.strip("<|>"): number for token, number in tokenizer.get_vocab().items() if token.startswith("<|")}
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in ids]})
    marks = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["endoftext"])
    marks["decoder_start_token_id"] = ids["startoftranscript"]
    config = {theirs: checkpoint["dims"][ours] for ours, theirs in dims.items()}
    widths = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * config["d_model"])
    model = WhisperForConditionalGeneration(WhisperConfig(**config, **widths, **marks))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            name = name.removeprefix("model.").replace("proj_out", "decoder.embed_tokens")
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            tensor.copy_(checkpoint["model_state_dict"][name])
    model.generation_config = GenerationConfig(
        **{**marks, "is_multilingual": True, "max_length": config["max_target_positions"]},
        lang_to_id={f"<|{name}|>": number for name, number in ids.items() if number in lists["lang_ids"]},
        task_to_id={name: ids[name] for name in ("transcribe", "translate")},
        no_timestamps_token_id=ids["notimestamps"],
        suppress_tokens=lists["suppress_ids"],
        begin_suppress_tokens=lists["suppress_ids_begin"],
    )
    for part in (model, tokenizer, WhisperFeatureExtractor(feature_size=config["num_mel_bins"])):
        part.save_pretrained(folder)
