"""``index.html``: the reports of a folder with titles and dates, newest first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from urllib.parse import quote

from whisperlab.report.page import render_page, write_page

_HEAD = 300_000  # characters to search for the title; exported notebooks have their style sheet before it


@dataclass(slots=True, frozen=True)
class Entry:
    """One report: address relative to the index, title, description, date, size in bytes."""

    href: str
    title: str
    about: str
    created: datetime
    n_bytes: int


def write_index(folder: str | Path, *, now: datetime | None = None) -> Path:
    """Write ``folder/index.html``, a list of all other HTML files in the folder and below; returns its path."""
    folder = Path(folder)
    target = folder / "index.html"
    pages = [page for page in folder.rglob("*.html") if page != target and not page.name.startswith(".")]
    created = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    return write_page(target, render_page("index.html.j2", entries=entries(folder, pages), created=created))


def entries(folder: Path, pages: Iterable[Path]) -> list[Entry]:
    """The pages as entries, newest first."""
    found = [_entry(folder, page) for page in pages]
    return sorted(found, key=lambda entry: (entry.created, entry.href), reverse=True)


def _entry(folder: Path, page: Path) -> Entry:
    with page.open(encoding="utf-8", errors="replace") as file:
        head = file.read(_HEAD).partition("<body")[0]
    title = re.search(r"<title[^>]*>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
    meta: dict[str, str] = {}
    for tag in re.findall(r"<meta\b[^>]*>", head):  # nbconvert writes attributes in any order, with either quote
        attributes = {name: value for name, _, value in re.findall(r"""([\w-]+)=(["'])(.*?)\2""", tag, re.DOTALL)}
        meta[attributes.get("name", "")] = attributes.get("content", "")
    facts = page.stat()
    return Entry(
        href=quote(page.relative_to(folder).as_posix()),
        title=unescape(title[1]).strip() if title else page.stem,
        about=unescape(meta.get("description", "")),
        created=_time(meta.get("created")) or datetime.fromtimestamp(facts.st_mtime, UTC),
        n_bytes=facts.st_size,
    )


def _time(text: str | None) -> datetime | None:
    """A date in a page, in UTC if it has no time zone; None if it is not a date."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
