"""Pages in a real browser, offline: what a test sees of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
GRAVE = ("serious", "critical")
_VIOLATIONS = "axe.run({iframes: false, resultTypes: ['violations']}).then(found => found.violations)"
_DRAWN = "!window.vegaEmbed || [...document.querySelectorAll('figure.chart')].every(f => f.classList.contains('drawn'))"
_AT_REST = """() => {
  const folds = [...document.querySelectorAll("details")];
  window.foldsAtFirst ??= folds.map(fold => fold.open);
  folds.forEach((fold, place) => { fold.open = window.foldsAtFirst[place]; });
  document.querySelectorAll("audio").forEach(audio => audio.pause());
  document.activeElement?.blur();
  scrollTo({top: 0, behavior: "instant"});
}"""


@dataclass
class Visit:
    """An open page and all it did that a quiet page does not do."""

    page: Page
    noise: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait for the drawings; fold, silence and scroll the page as it was opened, the pointer away from it all."""
        self.page.wait_for_function(_DRAWN)
        self.page.emulate_media(media="screen")
        self.page.mouse.move(0, 0)
        self.page.evaluate(_AT_REST)
        self.page.locator("#vg-tooltip-element").wait_for(state="hidden")

    def column(self, table: str, number: int) -> list[str]:
        """What a column of a table sorts by, from top to bottom."""
        script = "([id, n]) => [...document.querySelectorAll(`#${id} tbody tr`)].map(r => r.cells[n].dataset.sort)"
        return list(self.page.evaluate(script, [table, number]))

    def fetched(self) -> list[str]:
        """Requests for anything but the page itself and what lies in it."""
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:", "about:"))]

    def changes_with_the_theme(self, script: str) -> bool:
        """Whether what a script tells is another thing after a click on the button for light and dark; back again."""
        before = self.page.evaluate(script)
        self.page.click("#theme")
        after = self.page.evaluate(script)
        self.page.click("#theme")
        return bool(after != before)

    def overflow(self) -> int:
        """Pixels by which the page, all of it unfolded, is wider than the window."""
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    def grave(self) -> list[str]:
        """What axe-core finds serious or worse, a line for each place; frames within the page are not ours.

        Only violations are described and handed over: passes are thousands of places, and take longer than the search.
        """
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        return [
            f"{rule['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for rule in self.page.evaluate(_VIOLATIONS)
            if rule["impact"] in GRAVE
            for node in rule["nodes"]
        ]


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Visit]:
    """A page opened from the disk, without a network; content policies hold."""
    context = browser.new_context(offline=True, **options)
    visit = Visit(context.new_page())
    visit.page.on("console", lambda message: visit.noise.append(message.text))
    visit.page.on("pageerror", lambda error: visit.noise.append(str(error)))
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.goto(path.as_uri())
    visit.page.wait_for_function(_DRAWN)
    try:
        yield visit
    finally:
        context.close()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[tuple[str, Path]]:
    """A JupyterLab server on loopback, as a person starts it; its address with the token, and its folder."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
    }
    (folder / "work").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder / "work", env=environment, stdout=log, stderr=log)
        try:
            for _ in range(240):
                found = list((folder / "runtime").glob("jpserver-*.json"))
                if found and (told := found[0].read_text()):
                    server = json.loads(told)
                    address = f"{server['url']}lab?token={server['token']}"
                    with urlopen(address, timeout=10) as answer:  # noqa: S310 - loopback
                        assert answer.status == 200
                    break
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.25)
            else:
                raise AssertionError(f"JupyterLab did not start: {(folder / 'log').read_text()}")
            yield address, folder / "work"
        finally:
            process.terminate()
            process.wait(30)


def notebook_page(browser: Any, lab: tuple[str, Path], name: str, cells: Sequence[str]) -> Any:
    """A notebook, open and ready to run, in a workspace of its own: the default one opens earlier notebooks again."""
    import nbformat

    address, folder = lab
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / name)
    page = browser.new_page()
    page.goto(address.replace("/lab?", f"/lab/workspaces/{Path(name).stem}/tree/{name}?"), timeout=120_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.wait_for_selector("text=/ipykernel.* [|] Idle/", timeout=120_000)  # cells run before that are lost
    return page


def run_all(page: Any) -> None:
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
