"""The changes of benchmarks/mutants.py still apply: each finds its text once, and what comes out is Python.

That the tests of the instruments catch them is what `python benchmarks/mutants.py` shows, in some minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def mutants() -> Any:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


MODULE = mutants()


@pytest.mark.parametrize("name", ["buffer", "cache", "metrics"])
def test_each_instrument_has_ten_mutants_that_apply_and_parse(name: str) -> None:
    source = (ROOT / "whisperlab" / f"{name}.py").read_text(encoding="utf-8")
    changed = {MODULE.mutated(source, mutant) for mutant in MODULE.MUTANTS[name]}
    assert len(changed - {source}) == 10
    for text in changed:
        ast.parse(text)


def test_a_text_that_is_not_there_once_is_refused() -> None:
    with pytest.raises(ValueError, match="found it 2 times"):
        MODULE.mutated("a a", MODULE.Mutant("a", "b"))
