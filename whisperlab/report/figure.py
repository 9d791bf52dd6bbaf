"""A figure that displays itself, in a notebook cell or in a page; and the style of all figures.

Interactive figures are Vega-Lite specifications. The same specification gives the static SVG that is printed and shown
without scripts. vl-convert inlines Vega-Lite, 0.9 MB, once per page. Figures to look at are matplotlib's.
"""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from html import escape
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias

from whisperlab.report.page import TEMPLATES
from whisperlab.util.errors import needs
from whisperlab.util.json_values import Json

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

P = ParamSpec("P")
Drawing: TypeAlias = "matplotlib.figure.Figure"
Spec: TypeAlias = dict[str, Any]  # a Vega-Lite specification, from https://vega.github.io/vega-lite/
Grid = Literal["x", "y", "both", None]

# Okabe and Ito's colours, which people with any colour vision can distinguish. Black text is readable on all of them.
PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#7F8FD9")
OTHER = "#9AA0A6"  # all languages beyond the palette
GOOD, BAD, UNSURE, WORK = "#009E73", "#D55E00", "#F0E442", "#9AA0A6"
INK = "#1d2126"  # becomes the page's text colour
PAPER = "#fdfdfe"  # becomes the page's background
MUTED = "#7d858e"  # grid and axes: readable on light and dark

_NOT_XML = re.compile(r"(\\\\)|\\(?:u00[01][0-9a-f]|ufff[ef]|[bf])")  # in JSON, besides escaped backslashes

NARROW = 7.2  # inches; on a phone still readable


@dataclass(frozen=True)
class Figure:
    """A drawing, and a text for those who cannot see it. ``name`` is the prefix of its identifiers in a page."""

    name: str
    alt: str
    drawing: "Spec | Drawing"
    caption: str = ""
    sound: str = ""  # data URI of the recording, which a click on the figure plays

    @property
    def spec(self) -> Spec | None:
        """The Vega-Lite specification of an interactive figure; None for a static one."""
        given = self.drawing
        return {**given, "config": template("vega"), "description": self.alt} if isinstance(given, dict) else None

    def svg(self) -> str:
        """The static drawing as an inline ``<svg>`` without addresses; MissingDependencyError without its library."""
        if not isinstance(self.drawing, dict):
            return to_svg(self.drawing, self.name, self.alt)
        with needs("reports need vl-convert-python", "report"):
            import vl_convert

        # Characters that XML cannot hold would abort the process.
        spec = _NOT_XML.sub(lambda found: found[1] or r"\ufffd", json.dumps(self.spec))
        return _framed(vl_convert.vegalite_to_svg(spec), self.name, self.alt)

    def html(self) -> str:
        """The figure as markup for a page: the static drawing, and the specification that the page's script draws."""
        return self._markup

    _repr_html_ = html

    @cached_property
    def _markup(self) -> str:
        kind, script = "picture", ""
        if self.spec is not None:
            text = json.dumps(self.spec, ensure_ascii=True).replace("<", "\\u003c")  # no end of a script inside
            kind, script = "chart", f'<script type="application/json" class="spec">{text}</script>'
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        player = f'<audio controls src="{escape(self.sound)}"></audio>' if self.sound else ""
        opening = f'<figure class="{kind}" id="{escape(self.name)}" aria-label="{escape(self.alt)}">'
        return f'{opening}{player}<div class="static">{self.svg()}</div>{script}{caption}</figure>'


def to_svg(figure: Drawing, name: str, alt: str) -> str:
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


def template(name: str, **values: object) -> Any:
    """``NAME.json`` of the templates, such as a Vega-Lite specification, with a value for each ``"$name"`` in it."""
    known = {"ink": INK, "muted": MUTED, "palette": list(PALETTE), **values}
    known |= {"good": GOOD, "bad": BAD, "unsure": UNSURE, "work": WORK}

    def filled(part: Json) -> Json:
        return {key: known[one[1:]] if isinstance(one, str) and one[:1] == "$" else one for key, one in part.items()}

    return json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"), object_hook=filled)


def styled(draw: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Decorator: draw a figure in the style of the reports. The settings of matplotlib do not change."""

    @wraps(draw)
    def in_style(*args: P.args, **options: P.kwargs) -> Drawing:
        with needs("reports need matplotlib", "report"):
            from matplotlib import rc_context

        with rc_context(template("matplotlib")):
            return draw(*args, **options)

    return in_style


def new_figure(width: float, height: float) -> Drawing:
    import matplotlib.figure

    return matplotlib.figure.Figure(figsize=(width, height))


def new_plot(width: float, height: float, x: str = "", y: str = "", grid: Grid = None) -> "tuple[Drawing, Axes]":
    """A figure with one plot, the labels of its axes and its grid; its size is in inches."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    label(axes, x, y, grid)
    return figure, axes


def label(axes: "Axes", x: str = "", y: str = "", grid: Grid = None) -> None:
    """Set the labels of the axes, and grid lines across ``grid``."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if grid:
        axes.grid(visible=True, axis=grid)
