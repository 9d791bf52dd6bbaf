"""The terms that pages explain: a pointer on a term, or its focus, shows the definition."""

from __future__ import annotations

TERMS = {
    "real-time factor": "seconds of computing per second of audio; below 1 keeps up with live speech",
    "words wrong": "mixed error rate: wrong, missing and inserted words per word of the reference; characters in "
    "scripts without spaces",
    "wrong language, text": "share of the speech time whose final text is in another language, or missing",
    "wrong language, frames": "share of the speech time whose smoothed language-ID frames name another language. "
    "Frames lag behind the speech, so this is higher than the error of the text",
    "switch F1": "agreement of found and true language switches; a switch counts as found if it is at most 1 s away",
    "decision delay": "seconds of audio between a switch and the moment when it was known",
    "look-ups": "windows of audio that were searched in the encoder cache",
    "hit rate": "share of the look-ups that the cache answered",
    "false-hit rate": "share of the checked hits for which the encoder finds another language in the audio itself",
    "hash precision": "decimals of the rounded samples that are compared; at 0 decimals nearly all speech is silence",
    "rounded": "the guide's cache key: windows are equal if their samples, rounded to some decimals, are equal",
    "logmel": "a cache key: windows are equal if their coarse spectra are equal",
    "similar": "a cache key: a confident answer stands for similar audio of the next half second",
    "span": "a cache key: only the same samples of the same stream are equal",
    "language-ID": "language identification: which language a window of audio is in",
    "frame": "one point of decision of language-ID",
    "decision": "the moment when a switch was known; later than the switch itself",
    "posterior": "probability of each allowed language in one window",
    "tentative": "text that may still change",
    "Pareto front": "the configurations for which no other one is at least as good in every measure and better in one",
    "95 % interval": "would hold the true value in 95 of 100 repetitions; over recordings, so it needs three at least",
    "p50": "half of the calls took at most this time",
    "p95": "95 % of the calls took at most this time",
    "p99": "99 % of the calls took at most this time",
    "encoder seconds": "seconds of audio given to the encoder, silence included",
    "oracle": "the system was told every true switch: the best that the weights can do",
    "resident memory": "memory of the process that lies in RAM",
}
