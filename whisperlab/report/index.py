"""``index.html``: all reports of a folder with titles and dates, newest first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

from whisperlab.report.page import render_page, write_page

_HEAD = 300_000  # characters in which a page's title has to come; exported notebooks put their style first


@dataclass(slots=True, frozen=True)
class Entry:
    """One report: its address relative to the index, what it calls itself, when it was made, its bytes."""

    href: str
    title: str
    about: str
    created: datetime
    n_bytes: int


def write_index(folder: str | Path, *, now: datetime | None = None) -> Path:
    """Write ``folder/index.html`` listing every other HTML file in the folder and below; return its path."""
    folder = Path(folder)
    target = folder / "index.html"
    pages = [page for page in folder.rglob("*.html") if page != target and not page.name.startswith(".")]
    page = render_page(
        "index.html.j2",
        entries=entries(folder, pages),
        created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
    )
    return write_page(target, page)


def entries(folder: Path, pages: Iterable[Path]) -> list[Entry]:
    """The pages as entries, newest first."""
    found = [_entry(folder, page) for page in pages]
    return sorted(found, key=lambda entry: (entry.created, entry.href), reverse=True)


class _Head(HTMLParser):
    """Picks the title and the named ``<meta>`` out of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.meta: dict[str, str] = {}
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self._in_title = tag == "title" and not self.title
        if tag == "meta" and known.get("name"):
            self.meta[str(known["name"])] = known.get("content") or ""

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False


def _entry(folder: Path, page: Path) -> Entry:
    head = _Head()
    with page.open(encoding="utf-8", errors="replace") as file:
        head.feed(file.read(_HEAD).partition("<body")[0])
    facts = page.stat()
    return Entry(
        href=quote(page.relative_to(folder).as_posix()),
        title=head.title.strip() or page.stem,
        about=head.meta.get("description", ""),
        created=_time(head.meta.get("created")) or datetime.fromtimestamp(facts.st_mtime, UTC),
        n_bytes=facts.st_size,
    )


def _time(text: str | None) -> datetime | None:
    """A date a page gives itself; without a zone it is taken as UTC, and None when it is none."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
