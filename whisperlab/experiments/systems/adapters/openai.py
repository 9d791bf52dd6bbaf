"""openai-whisper: one language, detected in the first 30 seconds."""

import torch
import whisper


def load(request):
    torch.set_num_threads(request["threads"])
    model = whisper.load_model(request["weights"][0])

    def run(stream):
        found = model.transcribe(stream.audio, fp16=False, verbose=None)
        for part in found["segments"]:
            stream.segment(part["text"], found["language"], part["start"], part["end"])

    return run
