"""A long session with a microphone, in JupyterLab or on the command line: lost samples, text, lag.

    python benchmarks/microphone.py browser
    python benchmarks/microphone.py browser --patient      # no work is omitted for load: the text should be equal
    python benchmarks/microphone.py terminal --seconds 60

`browser` plays real speech through the fake microphone of Chromium into `whisperlab.jupyter.microphone` in JupyterLab.
`terminal` plays it into a null sink of PulseAudio, whose monitor is the microphone of `whisperlab listen`.
Printed: samples lost (the position of each second of speech in the saved recording shows a loss), whether the text is
that of the saved recording streamed from the file, the lag of events behind the audio, and the load of the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from whisperlab import SessionRestartTranscriber, data
from whisperlab.data.audio_files import read_audio, write_wav
from whisperlab.evaluation.trace import Trace, capture, read_trace
from whisperlab.streaming.real_time import real_time_line
from whisperlab.util.audio_arrays import FloatArray
from whisperlab.util.timeline import SAMPLE_RATE, samples

TESTS = Path(__file__).resolve().parents[1] / "tests"
LANGUAGES = ["en", "es"]
CELL = """from whisperlab.jupyter.microphone import Listener
from whisperlab.streaming.real_time import OverloadOptions
overload = OverloadOptions({options})
talk = Listener(["en", "es"], save="talk.wav", trace="talk.jsonl", overload=overload)"""
PATIENT = "skip_lid_ms=60_000, longer_steps_ms=80_000, drop_ms=100_000"
STATUS = "document.querySelector('[role=status]')?.textContent"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("browser", "terminal"))
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N")
    parser.add_argument("--patient", action="store_true", help="browser: no work is omitted for load")
    args = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    speech = np.concatenate([one.audio() for split in ("dev", "test") for one in data.load("ivr-en-es", split)])
    speech = speech[: samples(args.seconds)]
    print(f"load of the machine before: {os.getloadavg()}, {os.cpu_count()} processors", flush=True)
    with TemporaryDirectory(prefix="whisperlab-", ignore_cleanup_errors=True) as folder:
        saved, trace = (
            in_browser(speech, Path(folder), PATIENT * args.patient)
            if args.where == "browser"
            else in_terminal(speech, Path(folder))
        )
        print(f"load of the machine after: {os.getloadavg()}")
        report(speech, saved, trace)


def in_browser(speech: FloatArray, folder: Path, options: str) -> tuple[FloatArray, Trace]:
    from browsing import jupyterlab, notebook_page, run_all
    from microphones import RATE, difference, speaking, spoken
    from playwright.sync_api import sync_playwright

    heard, cell = spoken(speech, folder / "speech.wav"), CELL.format(options=options)
    with ExitStack() as stack:
        work = (lab := stack.enter_context(jupyterlab(folder)))[1]
        chromium = stack.enter_context(sync_playwright()).chromium
        page = notebook_page(stack.enter_context(speaking(chromium, folder / "speech.wav")), lab, "talk.ipynb", [cell])
        page.context.grant_permissions(["microphone"])
        run_all(page)
        page.wait_for_selector("text=/s recorded, lag/", timeout=120_000)
        page.wait_for_function(f"s => parseFloat({STATUS}) > s", arg=len(heard) / RATE, timeout=0)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.wait_for_selector("text=/talk: .* segments/", timeout=600_000)
        print(page.evaluate(STATUS))
        saved, trace = read_audio(work / "talk.wav"), read_trace(work / "talk.jsonl")
    print(f"largest difference to the speech: {difference(saved, heard)[0]} steps of 16 bits")
    return saved, trace


def in_terminal(speech: FloatArray, folder: Path) -> tuple[FloatArray, Trace]:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    write_wav(folder / "speech.wav", np.concatenate([silence, speech, silence]))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "PULSE_RUNTIME_PATH": str(folder / "pulse")}
    sink = "module-null-sink sink_name=speech rate=16000 channels=1 format=s16le"
    server = ["pulseaudio", "-n", "--exit-idle-time=-1", "--load=module-native-protocol-unix", f"--load={sink}"]
    files = ["--save", folder / "talk.wav", "--trace", folder / "talk.jsonl"]
    command = ["listen", "--device", "pulse", "--languages", ",".join(LANGUAGES)]
    listen = [sys.executable, "-P", "-m", "whisperlab", *command]
    with subprocess.Popen(server, env=environment, stderr=subprocess.DEVNULL) as pulse:
        time.sleep(2)
        try:
            with subprocess.Popen([*listen, *files], env=environment) as listening:
                while not (folder / "talk.wav").exists():  # until the model is loaded
                    time.sleep(0.1)
                subprocess.run(["paplay", "--device=speech", folder / "speech.wav"], env=environment, check=True)
                time.sleep(1)
                listening.send_signal(signal.SIGINT)
        finally:
            pulse.terminate()
    return read_audio(folder / "talk.wav"), read_trace(folder / "talk.jsonl")


def report(speech: FloatArray, saved: FloatArray, trace: Trace) -> None:
    """Print what was lost, whether the text is that of the file, and the lag."""
    moves = np.diff(positions(speech, saved))
    lost, added = (int(np.abs(moves[side].sum())) for side in (moves < 0, moves > 0))
    print(f"samples lost: {lost}, added: {added}, in {np.count_nonzero(moves)} of {len(moves)} seconds of speech")
    transcriber = SessionRestartTranscriber("base", languages=LANGUAGES)
    file = capture(transcriber, saved, recording="talk")
    texts = ["".join(segment.text for segment in each.segments) for each in (trace, file)]
    print(f"text equal to the file's: {texts[0] == texts[1]}, segments: {trace.segments == file.segments}")
    lag_s = [event["elapsed"] - event["at"] for event in trace.events if event["kind"] == "frame"]
    p50, p95, most = np.percentile(lag_s, [50, 95, 100])
    print(f"lag of {len(lag_s)} language-ID frames: p50 {p50:.2f} s, p95 {p95:.2f} s, max {most:.2f} s")
    print(f"{real_time_line(trace.statistics['real_time'])}; {trace.speed}")


def positions(speech: FloatArray, saved: FloatArray) -> list[int]:
    """Where each second of speech begins in the recording, less where it began; seconds of silence are left out."""
    n = 2 ** int(np.ceil(np.log2(len(saved) + len(speech))))
    first = int(np.argmax(np.fft.irfft(np.fft.rfft(saved, n) * np.conj(np.fft.rfft(speech, n)))))
    found, expected = list[int](), first if first < n // 2 else first - n
    for start in range(0, len(speech) - SAMPLE_RATE, SAMPLE_RATE):
        second = speech[start : start + SAMPLE_RATE]
        if np.square(second).mean() > 1e-5:
            around = max(start + expected - SAMPLE_RATE, 0)
            within = saved[around : around + 3 * SAMPLE_RATE].astype(np.float64)
            at = np.fft.irfft(np.fft.rfft(within, 2**16) * np.conj(np.fft.rfft(second, 2**16)))
            expected = around + int(np.argmax(at[: 2 * SAMPLE_RATE])) - start
            found.append(expected)
    return found


if __name__ == "__main__":
    main()
