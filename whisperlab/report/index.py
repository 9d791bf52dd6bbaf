"""``index.html``: the start page of a folder of reports, with their questions and answers in reading order."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from whisperlab.report.page import folder_lock, render_page, write_page
from whisperlab.util.files import write_atomic

_HEAD = 300_000  # characters to search for the title; exported notebooks have their style sheet before it


class Entry(NamedTuple):
    """One report: address relative to the index, title, question, answer, date, size in bytes."""

    href: str
    title: str
    question: str
    answer: str
    created: datetime
    n_bytes: int


def write_index(folder: str | Path, *, now: datetime | None = None) -> Path:
    """Write ``folder/index.html`` for all pages below; adds the navigation to those of whisperlab. Returns its path."""
    folder = Path(folder)
    target = folder / "index.html"
    pages = [page for page in folder.rglob("*.html") if page != target and not page.name.startswith(".")]
    created = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    found = entries(folder, pages)
    for place, entry in enumerate(found):
        path = folder / os.fsdecode(unquote_to_bytes(entry.href))
        with folder_lock(path.parent):  # else a page that another process writes now would be replaced by its old text
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            before, opened, rest = text.partition("<!--pages-->")
            _, closed, after = rest.partition("<!--/pages-->")
            if opened and closed:
                up = "../" * entry.href.count("/")
                navigation = render_page("navigation.html.j2", pages=found, place=place, up=up)
                page = f"{before}{opened}{navigation}{closed}{after}"
                if page != text:
                    write_atomic(path, page.encode(errors="surrogateescape"))
    return write_page(target, render_page("index.html.j2", entries=found, created=created))


def entries(folder: Path, pages: Iterable[Path]) -> list[Entry]:
    """The pages as entries in reading order: those with a number by number, then the others, newest first."""
    found = (_entry(folder, page) for page in pages)
    return sorted(found, key=lambda one: (one.href if one.href[:2].isdigit() else "~", -one.created.timestamp()))


def _entry(folder: Path, page: Path) -> Entry:
    with page.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_HEAD).partition("<body")[0]
    title = re.search(r"<title[^>]*>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
    meta: dict[str, str] = {}
    for tag in re.findall(r"<meta\b[^>]*>", head):  # nbconvert writes attributes in any order, with either quote
        attributes = {name: value for name, _, value in re.findall(r"""([\w-]+)=(["'])(.*?)\2""", tag, re.DOTALL)}
        meta[attributes.get("name", "")] = unescape(attributes.get("content", ""))
    facts = page.stat()
    try:
        created = datetime.fromisoformat(meta.get("created", ""))
    except ValueError:
        created = datetime.fromtimestamp(facts.st_mtime, UTC)
    return Entry(
        href=quote(os.fsencode(page.relative_to(folder))),
        title=unescape(title[1]).strip() if title else page.stem,
        question=meta.get("description", ""),
        answer=meta.get("answer", ""),
        created=created if created.tzinfo else created.replace(tzinfo=UTC),
        n_bytes=facts.st_size,
    )
