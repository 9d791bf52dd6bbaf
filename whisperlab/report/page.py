"""One HTML file from a template: style and script are inline, nothing is loaded, everything is escaped.

The page's content security policy blocks the network and allows only the script with the given digest. Markup in a
transcript could not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.util.errors import MissingDependencyError
from whisperlab.util.files import write_atomic
from whisperlab.util.html import format_value

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def render_page(template: str | Path, **context: object) -> str:
    """Render a template with ``context``. A variable of the template that is missing in ``context`` is an error.

    ``template`` is a name in `TEMPLATES`, or the path of a file that extends one of them.
    """
    own = {name: _trusted(text) for name, text in assets().items()}
    environment = _environment()
    if isinstance(template, Path):
        made = environment.from_string(template.read_text(encoding="utf-8"))
    else:
        made = environment.get_template(template)
    return made.render(**context, **own)


def assets() -> dict[str, str]:
    """Style and script of every page, and the digest that allows the script to run."""
    script = _asset("page.js")
    return {
        "style": _asset("page.css"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }


def write_page(path: str | Path, page: str) -> Path:
    """Write a page. The file appears only when it is complete."""
    return write_atomic(path, page.encode())


def described(value: object) -> str:
    """A configuration value as text.

    >>> described(None), described(True), described(["en", "es"]), described({"stay": 0.7})
    ('none', 'yes', 'en, es', 'stay: 0.7')
    """
    return format_value(value, "none")


def fact(name: str, value: object) -> tuple[str, str]:
    """Name and value of a provenance fact as text; sizes in GiB.

    >>> fact("memory_bytes", 2**34), fact("cpu_model", None)
    (('memory', '16.0 GiB'), ('cpu model', 'none'))
    """
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes").replace("_", " "), f"{value / 2**30:.1f} GiB"
    return name.replace("_", " "), described(value)


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("reports need jinja2: pip install 'whisperlab[report]'") from error
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


def _trusted(markup: str) -> Markup:
    """Our own markup, exempt from escaping: style, script, figures."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704
