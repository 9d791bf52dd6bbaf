"""A figure that displays itself: in a notebook cell, in a page, or as a file.

Interactive figures are Vega-Lite specifications, drawn in the browser. The same specification gives the static SVG
that is printed and shown without scripts. vl-convert carries Vega-Lite: 0.9 MB, inlined once per page, BSD licence.
Plotly with parallel coordinates has 4.6 MB, uPlot draws time series only, Observable Plot has no Python package.
Figures where looking is enough are matplotlib's.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from whisperlab.report.page import figure_page, missing, write_page
from whisperlab.util.errors import ConfigurationError
from whisperlab.util.files import write_atomic

if TYPE_CHECKING:
    import matplotlib.figure

Spec: TypeAlias = dict[str, Any]  # a Vega-Lite specification, from https://vega.github.io/vega-lite/

# Okabe and Ito's colours, which people with any colour vision can distinguish. Black text is readable on all of them.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#7F8FD9")
OTHER = "#9AA0A6"  # all languages beyond the palette
GOOD, BAD, UNSURE, WORK = "#009E73", "#D55E00", "#F0E442", "#9AA0A6"
INK = "#1d2126"  # becomes the page's text colour
PAPER = "#fdfdfe"  # becomes the page's background
MUTED = "#7d858e"  # grid and axes: readable on light and dark

CHART_WIDTH = 720  # pixels of the static drawing; a browser fits interactive figures to their place
_AXIS = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "domainColor": MUTED,
    "tickColor": MUTED,
    "gridColor": MUTED,
    "gridOpacity": 0.25,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
}
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
_CONFIG: Any = {
    "background": "transparent",
    "font": "system-ui, DejaVu Sans, sans-serif",
    "axis": _AXIS,
    "legend": {**_TEXT, "titleFontWeight": "normal", "orient": "top"},
    "title": {"color": "currentColor", "fontSize": 13, "anchor": "start"},
    "view": {"stroke": "transparent"},
    "text": {"color": "currentColor"},
}


@dataclass(frozen=True)
class Figure:
    """A drawing with its name, a text for those who cannot see it, and a caption that says how to read it.

    ``name`` is the prefix of all identifiers and must be unique in a page. A notebook cell that ends with a figure
    shows it.
    """

    name: str
    alt: str
    drawing: Spec | matplotlib.figure.Figure
    caption: str = ""
    sound: str = ""  # data URI of the recording, which a click on the figure plays

    @property
    def spec(self) -> Spec | None:
        """The Vega-Lite specification of an interactive figure; None for a static one."""
        if not isinstance(self.drawing, dict):
            return None
        return {**self.drawing, "config": _CONFIG, "description": self.alt}

    def svg(self) -> str:
        """The static drawing as an inline ``<svg>`` without addresses; screen readers read ``alt``.

        Raises MissingDependencyError without the libraries of the extra ``report``.
        """
        if not isinstance(self.drawing, dict):
            return to_svg(self.drawing, self.name, self.alt)
        try:
            import vl_convert
        except ImportError as error:
            raise missing("vl-convert-python") from error
        return _framed(vl_convert.vegalite_to_svg(self.spec or {}), self.name, self.alt)

    def html(self) -> str:
        """The figure as markup for a page: the static drawing, and the specification that the page's script draws."""
        return self._markup

    @cached_property
    def _markup(self) -> str:
        spec = self.spec
        script = ""
        if spec is not None:
            text = json.dumps(spec, ensure_ascii=True).replace("<", "\\u003c")  # no end of a script inside
            script = f'<script type="application/json" class="spec">{text}</script>'
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        kind = "chart" if script else "picture"
        player = f'<audio controls src="{escape(self.sound)}"></audio>' if self.sound else ""
        return (
            f'<figure class="{kind}" id="{escape(self.name)}" aria-label="{escape(self.alt)}">'
            f'{player}<div class="static">{self.svg()}</div>{script}{caption}</figure>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the static drawing, ``.svg``, or a page with the figure alone, ``.html``."""
        path = Path(path)
        if path.suffix == ".svg":
            namespace = '<svg xmlns="http://www.w3.org/2000/svg" '
            return write_atomic(path, self.svg().replace("<svg ", namespace, 1).encode())
        if path.suffix != ".html":
            raise ConfigurationError(f"a figure is saved as .svg or .html, got {path.name!r}")
        return write_page(path, figure_page(self.name, self.alt, self.html()))

    def _repr_html_(self) -> str:
        return self.html()


def to_svg(figure: matplotlib.figure.Figure, name: str, alt: str) -> str:
    """A matplotlib figure as an inline ``<svg>``; see `Figure.svg`. Text has the page's colour."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), io.StringIO() as file:
        figure.savefig(file, format="svg")
        drawn = file.getvalue()
    return _framed(drawn.replace(INK, "currentColor").replace(PAPER, "var(--back, #ffffff)"), name, alt)


def _framed(drawn: str, name: str, alt: str) -> str:
    """An SVG document as an inline element: identifiers with a prefix, short coordinates, a text for screen readers."""
    head, _, inside = drawn[drawn.index("<svg") :].partition(">")
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    coordinates = re.compile(r'\s(?:d|x|y|points|transform)="[^"]*"')
    # A hundredth of a point is invisible on any screen.
    inside = coordinates.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), inside)
    numbers: dict[str, int] = {}  # Vega counts its clips over all drawings of a process
    inside = re.sub(r"\bclip(\d+)", lambda found: f"clip{numbers.setdefault(found[1], len(numbers))}", inside)
    inside = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", inside).replace("xlink:href", "href").strip()
    inside = re.sub(r'\saria-[a-z]+="[^"]*"|\srole="[^"]*"', "", inside)  # the drawing is one image
    found = re.search(r'viewBox="([\d.\s-]+)"', head)
    box = found[1] if found else "0 0 1 1"
    inches = float(box.split()[2]) / 72
    return f'<svg role="img" aria-label="{escape(alt)}" viewBox="{box}" style="--inches:{inches:.3g}">{inside}'
