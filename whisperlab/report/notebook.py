"""A notebook, executed with parameters, as one HTML page. nbconvert's own template would load scripts from the web."""

import json
import re
import shlex
import sys
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from whisperlab.evaluation.trace import provenance
from whisperlab.report.page import TEMPLATES, assets, complete, fact, write_page
from whisperlab.util.errors import ConfigurationError, MissingDependencyError, NotebookError, needs
from whisperlab.util.process import safe_path

if TYPE_CHECKING:
    from nbformat import NotebookNode

_TEMPLATE = "notebook.html.j2"
_KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3"}  # the one with the current Python
_WIDGET = "application/vnd.jupyter.widget-view+json"
_HIDDEN = "hide-input"  # tag of cells whose code is hidden
_NEEDED = "notebooks need papermill, nbconvert and ipykernel"


def run_notebook(path: str | Path, out_html: str | Path, parameters: Mapping[str, object] | None = None) -> Path:
    """Execute a notebook in a fresh kernel and write its page; returns the page's path.

    ``parameters`` replace those of the cell tagged ``parameters``. The notebook runs in its own folder; its file does
    not change. If a cell fails, the page is still written with the error in it, and NotebookError names the cell.
    Raises ConfigurationError for an unknown parameter.
    """
    with needs(_NEEDED, "notebook"):
        import nbconvert  # noqa: F401  # the notebook does not run if it cannot become a page
        import nbformat
        from papermill import inspect_notebook

    source, page, values = Path(path), Path(out_html), dict(parameters or {})
    with TemporaryDirectory(prefix="whisperlab-notebook-") as folder:
        copy, executed = Path(folder) / source.name, Path(folder) / "executed.ipynb"
        notebook = _read(source)
        notebook.metadata["kernelspec"] = _KERNEL  # papermill needs it, and some notebooks lack it
        nbformat.write(notebook, copy)  # type: ignore[no-untyped-call]
        known = inspect_notebook(str(copy)) if values else {}
        if unknown := values.keys() - known.keys():  # papermill would only warn and ignore them
            named = ", ".join(sorted(unknown))
            raise ConfigurationError(f"{source} has no parameter {named}; it has {', '.join(known) or 'none'}")
        failure = _execute(copy, executed, values, source.resolve().parent)
        write_page(page, to_html(_read(executed), source=path))
    if failure:
        raise NotebookError(f"{source}: {failure}; {page} shows the cells up to the error")
    return page


def to_html(notebook: "NotebookNode", *, source: str | Path = "notebook.ipynb", now: datetime | None = None) -> str:
    """An executed notebook as a page that begins with its question, its answer and one picture.

    The first heading is the title, the paragraph below it the question. The output of the cell tagged ``answer``
    follows: its first paragraph is the answer, the rest the findings. Then comes the output of the cell ``picture``.
    Code is folded, except the parameters. ``source`` is the notebook's path, for the page's provenance.
    """
    with needs(_NEEDED, "notebook"):
        from jinja2 import DictLoader
        from nbconvert import HTMLExporter
        from traitlets.config import Config

    notebook = deepcopy(notebook)
    # On one line each, without Markdown's marks of emphasis and code.
    title, about, answer = (" ".join(re.sub(r"[*`]", "", text).split()) for text in _answer_first(notebook))
    notebook.metadata["title"] = title
    notebook.metadata.pop("widgets", None)  # useless in the page: their renderer would come from the web
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        config=Config(TagRemovePreprocessor={"enabled": True, "remove_input_tags": {_HIDDEN}}),
        extra_loaders=[DictLoader({_TEMPLATE: (TEMPLATES / _TEMPLATE).read_text(encoding="utf-8")})],
        template_file=_TEMPLATE,
        embed_images=True,
        **dict.fromkeys(("exclude_input_prompt", "exclude_output_prompt", "exclude_anchor_links"), True),
    )
    created = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    told = {"about": escape(about), "answer": escape(answer), "created": created}
    facts = [("report made", created), *_facts(notebook, source)]
    body, _ = exporter.from_notebook_node(notebook, {**told, "facts": facts, **assets()})
    return complete(_with_contents(str(body)))


def _with_contents(page: str) -> str:
    """Add an anchor to every second-level heading, and the table of contents."""
    entries: list[str] = []

    def addressed(heading: re.Match[str]) -> str:
        entries.append(f'<li><a href="#part-{len(entries)}">{re.sub("<[^>]+>", "", heading[1])}</a></li>')
        return f'<h2 id="part-{len(entries) - 1}">{heading[1]}</h2>'

    page = re.sub(r"<h2>(.*?)</h2>", addressed, page, flags=re.DOTALL)
    return page.replace("<!--contents-->", "".join(entries), 1)


def _facts(notebook: "NotebookNode", source: str | Path) -> list[tuple[str, str]]:
    command = ["whisperlab", "report", str(source)]
    for name, value in notebook.metadata.get("papermill", {}).get("parameters", {}).items():
        command += ["-p", f"{name}={json.dumps(value)}"]
    origin = provenance()
    own = {name: origin[name] for name in ("whisperlab", "commit")} | origin["machine"]
    return [("command", shlex.join(command)), *(fact(*one) for one in own.items()), *origin["versions"].items()]


def _read(path: Path) -> "NotebookNode":
    import nbformat

    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        raise NotebookError(f"{path}: no such notebook") from error
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise NotebookError(f"{path}: not a notebook: {str(error)[:200]}") from error
    return notebook


def _execute(notebook: Path, executed: Path, values: Mapping[str, object], folder: Path) -> str:
    """Run a notebook in ``folder``; ``executed`` is written cell by cell. Returns the reason of a failure, or ''."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    try:
        private = Config(
            KernelManager={"transport": "ipc"},  # TCP is open to all users of the machine
            NotebookClient={"shutdown_kernel": "immediate"},  # an interrupt first would print an error now and then
        )
        paths = str(notebook), str(executed)
        with safe_path():
            execute_notebook(*paths, dict(values), progress_bar=sys.stderr.isatty(), cwd=str(folder), config=private)
    except PapermillExecutionError as error:
        first = error.source.strip().partition("\n")[0]
        return f"the cell that begins with {first!r} failed with {error.ename}: {error.evalue}"
    except DeadKernelError as error:
        return f"its Python process ended: {error}"
    except NoSuchKernel as error:
        raise MissingDependencyError(f"{_NEEDED}: pip install 'whisperlab[notebook]'") from error
    return ""


def _answer_first(notebook: "NotebookNode") -> tuple[str, str, str]:
    """Move question, answer and picture to the top of a notebook; returns title, question and answer."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    cells = notebook.cells
    for cell in cells:  # progress bars and controls are of use while a notebook runs
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if _WIDGET not in out.get("data", {})]

    def tagged(tag: str) -> "NotebookNode":
        none: NotebookNode = new_code_cell()  # type: ignore[no-untyped-call]
        return next((cell for cell in cells if tag in cell.metadata.get("tags", [])), none)

    title, question, rest, answer, findings = "Notebook", "", "", "", ""
    if cells and cells[0].cell_type == "markdown":
        found = re.match(r"(?s)# +(.+?)\s*(?:\n+|\Z)(.*?)\s*(?:\n\s*\n(.*)|\Z)", cells[0].source)
        if found:
            title, question, rest = found[1], found[2], found[3] or ""
            cells[0].source = f"# {title}\n\n{question}"
    top, asked, picture = [], tagged("answer"), tagged("picture")
    for output in asked.get("outputs", []):
        if text := output.get("data", {}).get("text/markdown", ""):
            asked.outputs.remove(output)
            answer, _, findings = text.strip().partition("\n\n")
            break
    if answer:
        top.append(new_markdown_cell(answer, metadata={"tags": ["answer-text"]}))  # type: ignore[no-untyped-call]
    if picture.get("outputs"):
        shown = deepcopy(picture)
        shown.metadata["tags"], shown["id"], picture.outputs = [_HIDDEN], "picture", []
        top.append(shown)
    top += [new_markdown_cell(text) for text in (findings, rest) if text]  # type: ignore[no-untyped-call]
    cells[1:1] = top
    return title, question, answer
