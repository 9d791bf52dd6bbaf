"""faster-whisper in int8: whole recordings, reference segments with their languages, and streams by local agreement."""

from itertools import takewhile

import numpy as np
from faster_whisper import WhisperModel

RATE, LONGEST_S, PROMPT = 16_000, 15.0, 200


class Detections:
    """CTranslate2's model; keeps the last language, which faster-whisper computes for each window and drops."""

    def __init__(self, engine):
        self._engine, self.language = engine, None

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def detect_language(self, *args, **kwargs):
        found = self._engine.detect_language(*args, **kwargs)
        self.language = found[0][0][0].strip("<|>")
        return found


def load(request):
    engine = WhisperModel(request["weights"][0], device="cpu", compute_type="int8", cpu_threads=request["threads"])
    engine.model, options = Detections(engine.model), request["arguments"]
    if options.get("local_agreement"):
        return lambda stream: local_agreement(engine, stream)

    def whole(stream):
        parts, info = engine.transcribe(stream.audio, **options)
        for part in parts:  # decoded when it is asked for: the last detection is that of its window
            language = engine.model.language if options.get("multilingual") else info.language
            stream.segment(part.text, language or info.language, part.start, part.end)

    def oracle(stream):
        for start, end, language in request["segments"]:
            clip = stream.audio[round(start * RATE) : round(end * RATE)]
            if len(clip):
                text = "".join(part.text for part in engine.transcribe(clip, language=language)[0])
                stream.segment(text, language, start, end)

    return oracle if options.get("oracle") else whole


def local_agreement(engine, stream):
    """Words are final when two hypotheses in a row agree on them (LocalAgreement-2, Macháček et al. 2023).

    Each second all audio since the last cut is decoded. It is cut behind the last final word when it is longer than
    15 s. The prompt is the final text before the cut.
    """
    audio, start, final, before, language = np.zeros(0, np.float32), 0.0, [], [], None
    for chunk in stream.chunks(1.0, greedy=True):
        audio = np.append(audio, chunk)
        prompt = "".join(word for _, end, word in final if end <= start)[-PROMPT:]
        parts, info = engine.transcribe(audio, word_timestamps=True, initial_prompt=prompt or None)
        words = [(start + word.start, start + word.end, word.word) for part in parts for word in part.words]
        last_end, language = final[-1][1] if final else 0.0, info.language
        words = [word for word in words if word[0] > last_end - 0.1]
        for n in range(1, min(5, len(words), len(final)) + 1):  # the last final words once more, slightly later
            if [word for *_, word in final[-n:]] == [word for *_, word in words[:n]]:
                words = words[n:]
                break
        agreed = len(list(takewhile(lambda pair: pair[0][2] == pair[1][2], zip(before, words, strict=False))))
        final, before = [*final, *words[:agreed]], words[agreed:]
        stream.show("".join(word for *_, word in words[:agreed]), "".join(word for *_, word in before), language)
        if len(audio) > LONGEST_S * RATE:
            cut = max(final[-1][1] if final else 0.0, start + len(audio) / RATE - LONGEST_S)
            audio, start = audio[round((cut - start) * RATE) :], cut
    stream.show("".join(word for *_, word in before), "", language)
