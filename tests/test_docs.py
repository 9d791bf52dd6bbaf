"""The documentation: the README stays short, and every link leads to a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from whisperlab.report.page import TEMPLATES

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")]


def test_the_readme_has_at_most_150_lines_of_100_characters() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings], link


def test_the_documentation_names_only_files_that_exist() -> None:
    for page in PAGES:
        if page.name in ("log-archive.md", "CHANGELOG.md"):  # they name files of earlier versions
            continue
        named = re.findall(r"`((?:benchmarks|notebooks|tests|whisperlab)/[\w/.]+)`", page.read_text("utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == [], page.name


def test_the_glossary_of_the_pages_is_that_of_the_documentation() -> None:
    listed = (ROOT / "docs" / "glossary.md").read_text("utf-8").casefold()
    terms = json.loads((TEMPLATES / "terms.json").read_text("utf-8"))
    assert [term for term in terms if term.casefold() not in listed] == []
