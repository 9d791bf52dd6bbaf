"""The lines that `make demo` prints about its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import demo


def test_each_step_has_a_line_and_a_cached_download_does_not_shorten_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])

    def step(name: str, expected_s: float, taken_s: float, result: Path | str) -> demo.Step:
        def work() -> Path | str:
            now[0] += taken_s
            return result

        return demo.Step(name, expected_s, work)

    page = tmp_path / "01.html"
    page.write_text('<title>One</title><meta name="answer" content="Ten of ten. More.">')
    todo = [step("speech", 30, 1, "from the cache"), step("quickstart", 20, 40, page), step("end", 100, 100, "so")]
    assert demo.run(todo, tmp_path, 5.0) == 141
    assert capsys.readouterr().out.splitlines() == [
        "[2/4] speech 1 s, 2 min 0 s left: from the cache",
        f"[3/4] quickstart 40 s, 3 min 20 s left: Ten of ten → {page}",
        f"First page ready after 46 s: open {page}",
        "[4/4] end 1 min 40 s: so",
    ]
    assert (tmp_path / "index.html").exists()
