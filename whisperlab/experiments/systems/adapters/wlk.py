"""WhisperLiveKit as its server runs it, with its voice activity control; it has clocks, so it is always fed live."""

import asyncio
import time

import torch
from whisperlivekit import AudioProcessor, TranscriptionEngine
from whisperlivekit.whisper import _ALIGNMENT_HEADS


def load(request):
    torch.set_num_threads(request["threads"])
    heads = _ALIGNMENT_HEADS[request["model"]].decode() if request["model"] in _ALIGNMENT_HEADS else None
    options = {"lan": "auto", "pcm_input": True, "warmup_file": "", "custom_alignment_heads": heads}
    paths = dict(zip(("model_path", "encoder_model_path"), request["weights"], strict=False))
    engine = TranscriptionEngine(**paths, **options, **request["arguments"])
    detected = []
    if model := getattr(engine.asr, "model", None):  # faster-whisper: keep the language, which the server drops
        transcribe = model.transcribe

        def kept(*args, **kwargs):
            parts, info = transcribe(*args, **kwargs)
            detected[:] = [info.language]
            return parts, info

        model.transcribe = kept
    return lambda stream: asyncio.run(feed(engine, stream, detected))


async def feed(engine, stream, detected):
    processor = AudioProcessor(transcription_engine=engine)
    online, stream.compute_s = processor.transcription, 0.0

    def logged(call):
        def run(*args, **kwargs):
            began = time.perf_counter()
            tokens, upto = call(*args, **kwargs)
            stream.compute_s += time.perf_counter() - began
            languages = [token.detected_language for token in tokens if token.detected_language] or detected
            stream.show("".join(token.text for token in tokens), online.get_buffer().text, *languages[:1])
            return tokens, upto

        return run

    for name in ("process_iter", "finish"):  # the start of a silence calls `process_iter`
        if hasattr(online, name):
            setattr(online, name, logged(getattr(online, name)))
    results = await processor.create_tasks()

    async def drain():
        async for _ in results:
            pass

    drained, chunks = asyncio.create_task(drain()), stream.chunks(0.1, live=True)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        await processor.process_audio((chunk * 32767).astype("<i2").tobytes())
    await processor.process_audio(None)
    await drained
    await processor.cleanup()
    stream.show(stream.tentative)  # the server makes what is left final
