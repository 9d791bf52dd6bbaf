"""JupyterLab as a person starts it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab server on loopback, as a person starts it; its address with the token, and its folder."""
    import os
    import subprocess
    import sys
    import time
    from urllib.request import urlopen

    folder = tmp_path_factory.mktemp("lab")
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
                pytest.fail(f"JupyterLab did not start: {(folder / 'log').read_text()}")
            yield address, folder / "work"
        finally:
            process.terminate()
            process.wait(30)
