"""One HTML file from a template: style and script are inline, nothing is loaded, everything is escaped.

The page's content security policy blocks the network and allows only the script with the given digest. Markup in a
transcript could not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from whisperlab.report.glossary import TERMS
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
        return complete(environment.from_string(template.read_text(encoding="utf-8")).render(**context, **own))
    return complete(environment.get_template(template).render(**context, **own))


def assets() -> dict[str, str]:
    """Style, script and glossary of every page, and the digest that allows the script to run."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    terms = json.dumps(TERMS, ensure_ascii=True).replace("<", "\\u003c")
    return {"style": style, "script": script, "script_digest": _digest(script), "terms": terms}


def complete(page: str) -> str:
    """The page with the library that draws its interactive figures, if it has any."""
    if not interactive(page):
        return page
    library = vega_script()
    page = page.replace("script-src ", f"script-src 'sha256-{_digest(library)}' ", 1)
    return page.replace("<!--figures-->", f"<script>{library}</script>", 1)


def figure_page(name: str, alt: str, markup: str) -> str:
    """A page with one figure alone."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return render_page("figure.html.j2", name=name, alt=alt, markup=markup, created=created)


def interactive(markup: str) -> bool:
    """Whether markup holds a figure that the page's script draws."""
    return 'class="spec"' in markup


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, for a page with interactive figures. It loads nothing."""
    try:
        import vl_convert
    except ImportError as error:
        raise missing("vl-convert-python") from error
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")


def missing(library: str) -> MissingDependencyError:
    """The error for a library of the extra ``report`` that is not installed."""
    return MissingDependencyError(f"reports need {library}: pip install 'whisperlab[report]'")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def write_page(path: str | Path, page: str) -> Path:
    """Write a page. The file appears only when it is complete."""
    return write_atomic(path, page.encode())


def fact(name: str, value: object) -> tuple[str, str]:
    """Name and value of a provenance fact as text; sizes in GiB.

    >>> fact("memory_bytes", 2**34), fact("cpu_model", None)
    (('memory', '16.0 GiB'), ('cpu model', 'none'))
    """
    if name.endswith("_bytes") and isinstance(value, int):
        name, value = name.removesuffix("_bytes"), f"{value / 2**30:.1f} GiB"
    return name.replace("_", " "), format_value(value, "none")


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise missing("jinja2") from error
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["drawing"] = _trusted
    environment.globals["fact"] = fact
    return environment


def _trusted(markup: str) -> Markup:
    """Our own markup, exempt from escaping: style, script, figures."""
    from markupsafe import Markup

    return Markup(markup)  # noqa: S704
