"""whisper.cpp: whole recordings, or a sliding window as in its example ``stream``, also with a short audio context."""

import _pywhispercpp
import numpy as np
from pywhispercpp.model import Model

RATE, STEP_S, WINDOW_S, KEPT_S = 16_000, 3.0, 10.0, 0.2


def load(request):
    options = {"n_threads": request["threads"], "language": "", "print_progress": False}
    options["audio_ctx"] = request["arguments"].get("audio_ctx", 0)
    model = Model(request["weights"][0], redirect_whispercpp_logs_to=None, **options)

    def decode(audio):
        parts = model.transcribe(audio)
        return parts, _pywhispercpp.whisper_lang_str(_pywhispercpp.whisper_full_lang_id(model._ctx))

    def whole(stream):
        parts, language = decode(stream.audio)
        for part in parts:
            stream.segment(part.text, language, part.t0 / 100, part.t1 / 100)

    def window(stream):
        audio, text, language = np.zeros(0, np.float32), "", None
        for chunk in stream.chunks(STEP_S):
            audio = np.append(audio, chunk)[-round(WINDOW_S * RATE) :]
            parts, language = decode(audio)
            text = "".join(f" {part.text.strip()}" for part in parts)
            full = len(audio) > (WINDOW_S - STEP_S) * RATE
            stream.show(text if full else "", "" if full else text, language)
            if full:
                audio, text = audio[-round(KEPT_S * RATE) :], ""
        stream.show(text, "", language)

    return window if request["arguments"].get("window") else whole
