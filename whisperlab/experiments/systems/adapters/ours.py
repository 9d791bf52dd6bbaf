"""whisperlab, with its defaults; also with one language, or with every true switch."""

from dataclasses import asdict

from whisperlab.model.weights import load_weights
from whisperlab.transcriber import SessionRestartTranscriber
from whisperlab.util.threads import torch_threads


def load(request):
    weights, threads, mode = load_weights(request["weights"][0]), request["threads"], request["arguments"]["languages"]
    spans = [(start, language) for start, _, language in request["segments"]] or [(0.0, request["languages"][0])]
    spans[0] = (0.0, spans[0][1])
    options = {"auto": {"languages": request["languages"]}, "forced": {"language": spans[0][1]}}
    options["oracle"] = {"oracle": spans}

    def log(stream, result):
        stream.show(result.committed, result.tentative, result.language)
        stream.lines += [{"kind": "switch", **switch.to_dict()} for switch in result.switches]
        segments = map(asdict, result.segments)
        stream.lines += [{"kind": "segment", **segment, "at": stream.clocks()["at"]} for segment in segments]

    def run(stream):
        with torch_threads(threads):
            transcriber = SessionRestartTranscriber(weights, threads=threads, **options[mode])
            for chunk in stream.chunks(0.1):
                log(stream, transcriber.process(chunk))
            log(stream, transcriber.finalize())

    return run
