"""One HTML file from a template, with its style and script. Its content security policy blocks the network."""

import base64
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.util.errors import needs
from whisperlab.util.files import write_atomic
from whisperlab.util.html import format_value
from whisperlab.util.json_values import unicode_text
from whisperlab.util.statistics import LEAST_UNITS
from whisperlab.util.timeline import seconds
from whisperlab.util.validation import on_threads

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.environment import TemplateModule

TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str | Path, **context: object) -> str:
    """Render a template by name, or a file that extends one. A variable that is missing in ``context`` is an error."""
    given = template.read_text(encoding="utf-8") if isinstance(template, Path) else None
    found = _environment().get_template(str(template)) if given is None else _environment().from_string(given)
    return complete(found.render(**context))


@cache
def _environment() -> "Environment":
    """Compiles each template of `TEMPLATES` once in a process."""
    with needs("reports need jinja2", "report"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals.update(fact=fact, many=many, percent=percent, seconds=seconds, on_threads=on_threads)
    environment.globals.update(least_units=LEAST_UNITS, **assets())
    return environment


def expression(text: str) -> Callable[..., Any]:
    """A Jinja expression of variables, such as ``row.count``; a function that takes them by keyword."""
    return _environment().compile_expression(text, undefined_to_none=False)


def page_text(name: str, **values: object) -> str:
    """The text of a macro of ``texts.txt.j2`` in one line, with its values."""
    return " ".join(page_texts(name, **values))


def page_texts(name: str, **values: object) -> tuple[str, ...]:
    """The paragraphs of a macro, which ¶ separates, each in one line."""
    text = re.sub(r"[ \n]+", " ", getattr(_texts(), name)(**values))
    return tuple(paragraph.strip() for paragraph in text.split("¶") if paragraph.strip())


@cache
def _texts() -> "TemplateModule":
    plain = _environment().overlay(autoescape=False, trim_blocks=False)  # the pages escape the texts
    return plain.get_template("texts.txt.j2").module


def assets() -> dict[str, str]:
    """Style, script and glossary of every page, and the digest that allows the script to run."""
    files = {"style": "page.css", "script": "page.js", "terms": "terms.json"}
    found = {name: (TEMPLATES / file).read_text(encoding="utf-8") for name, file in files.items()}
    return {**found, "script_digest": digest(found["script"])}


def complete(page: str) -> str:
    """The page with the library of its interactive figures, if any; bytes that are not UTF-8 become escapes."""
    page = unicode_text(page).encode(errors="backslashreplace").decode()
    if 'class="spec"' not in page:
        return page
    library = vega_script()
    page = page.replace("script-src ", f"script-src 'sha256-{digest(library)}' ", 1)
    return page.replace("<!--figures-->", f"<script>{library}</script>", 1)


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, for a page with interactive figures. It loads nothing."""
    with needs("reports need vl-convert-python", "report"):
        import vl_convert

    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")


def digest(script: str) -> str:
    """SHA-256 of a script in base64, as a content security policy lists it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def write_page(path: str | Path, page: str) -> Path:
    """Write a page. The file appears only when it is complete."""
    parent = Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(parent):
        return write_atomic(path, page.encode())


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock the pages of a folder for one process at a time. Leaves no file, unlike `locked_folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fact(name: str, value: object) -> tuple[str, str]:
    """Name and value of a provenance fact as text; sizes in GiB.

    >>> fact("memory_bytes", 2**34), fact("cpu_model", None)
    (('memory', '16.0 GiB'), ('cpu model', 'none'))
    """
    if name.endswith("_bytes") and isinstance(value, int):
        name, value = name.removesuffix("_bytes"), f"{value / 2**30:.1f} GiB"
    return name.replace("_", " "), format_value(value, "none")


def percent(share: float | None) -> str:
    """A share for a reader; small ones keep a decimal.

    >>> percent(0.614), percent(0.004), percent(None)
    ('61 %', '0.4 %', '–')
    """
    return "–" if share is None else f"{100 * share:.{1 if 0 < abs(share) < 0.095 else 0}f} %"


def many(count: int, noun: str, ending: str = "s") -> str:
    """A count with its noun.

    >>> many(1, "run"), many(1200, "switch", "es")
    ('1 run', '1,200 switches')
    """
    return f"{count:,} {noun}{'' if count == 1 else ending}"
