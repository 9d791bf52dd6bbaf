"""One HTML file out of a template: style and script inside, nothing fetched, everything escaped.

The page forbids itself the network with a content security policy, and allows only the one script whose
digest it names: markup that came in with a transcript could not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperlab.util.errors import MissingDependencyError
from whisperlab.util.files import write_atomic
from whisperlab.util.html import format_value

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str | Path, **context: Any) -> str:
    """Render a template with ``context``. A name that the template uses and ``context`` lacks is an error.

    A template is a name in `TEMPLATES`, or the path of a file that extends one of them.
    """
    own = {name: _trusted(text) for name, text in assets().items()}
    environment = _environment()
    if isinstance(template, Path):
        made = environment.from_string(template.read_text(encoding="utf-8"))
    else:
        made = environment.get_template(template)
    return made.render(**context, **own)


def assets() -> dict[str, str]:
    """Style and script of every page, and the digest by which the page lets the script run."""
    script = _asset("page.js")
    return {
        "style": _asset("page.css"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }


def write_page(path: str | Path, page: str) -> Path:
    """Write a page; it appears under its name only when it is complete."""
    return write_atomic(path, page.encode())


def described(value: Any) -> str:
    """A configuration value for people.

    >>> described(None), described(True), described(["en", "es"]), described({"sure": 0.7})
    ('none', 'yes', 'en, es', 'sure: 0.7')
    """
    return format_value(value, "none")


def fact(name: str, value: Any) -> tuple[str, str]:
    """A name and a value of where something comes from; sizes in GiB.

    >>> fact("memory_bytes", 2**34), fact("cpu_model", None)
    (('memory', '16.0 GiB'), ('cpu model', 'none'))
    """
    size = f"{value / 2**30:.1f} GiB" if name.endswith("_bytes") and value else described(value)
    return name.removesuffix("_bytes").replace("_", " "), size


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError(
            "reports need jinja2; install it with: pip install 'whisperlab[report]'"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(described=described, drawing=_trusted)
    environment.globals.update(fact=fact)
    return environment


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _trusted(markup: str) -> Any:
    """Markup of our own making, exempt from escaping: the style, the script, the figures."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704
