"""The changes of benchmarks/mutants.py apply: each text occurs once, and the result is valid Python.

`python benchmarks/mutants.py` checks, in some minutes, that the tests catch them.
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
    sys.modules["mutants"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MODULE = mutants()


@pytest.mark.parametrize("name", ["buffer", "cache", "metrics"])
def test_each_part_has_ten_mutants_that_apply_and_parse(name: str) -> None:
    changed = set()
    for mutant in MODULE.MUTANTS[name]:
        source = (ROOT / "whisperlab" / (mutant.file or f"{name}.py")).read_text(encoding="utf-8")
        changed.add(text := MODULE.mutated(source, mutant))
        ast.parse(text)
        assert text != source
    assert len(changed) == 10


def test_a_text_that_is_not_there_once_is_refused() -> None:
    with pytest.raises(ValueError, match="found it 2 times"):
        MODULE.mutated("a a", MODULE.Mutant("a", "b"))
