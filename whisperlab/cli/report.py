"""Write offline HTML pages from a sweep's folder, traces or notebooks.

Notebooks are executed. Every page is one file that needs no network. The index.html beside it lists all pages of the
folder.
"""

import argparse
import os
import shlex
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from whisperlab.cli.arguments import PAGES, refuse_audio, require
from whisperlab.cli.console import Console
from whisperlab.cli.score import read_references, streams
from whisperlab.util.errors import SweepError, TraceError
from whisperlab.util.files import as_path
from whisperlab.util.json_values import unicode_text

if TYPE_CHECKING:
    from whisperlab.report.sweep import SweepReport


def run(args: argparse.Namespace, console: Console) -> None:
    """Write the pages and their index; print the path and the answer of each page."""
    notebook_libraries = dict.fromkeys(("papermill", "nbconvert", "ipykernel"), "notebooks")
    kinds = {path.suffix == ".ipynb" for path in args.sources}
    needed = {"jinja2": PAGES["jinja2"], **(notebook_libraries if True in kinds else {})}
    require({**needed, **(PAGES if False in kinds else {})})
    from whisperlab.report import notebook
    from whisperlab.report.index import entries, write_index

    folders = [path for path in args.sources if path.is_dir()]
    notebooks = [path for path in args.sources if path.suffix == ".ipynb"]
    traces = [path for path in args.sources if path not in (*folders, *notebooks)]
    jobs = [[folder] for folder in folders] + ([traces] if traces else []) + [[each] for each in notebooks]
    if args.out.suffix == ".html" and len(jobs) > 1:
        args.parser.error(f"--out names one page, but the sources make {len(jobs)}: give a folder")
    if args.out.name == "index.html":
        args.parser.error("--out: index.html is the list of all pages: give another name")
    if missing := [str(path) for path in args.sources if not path.exists()]:
        raise TraceError(f"no such file or folder: {', '.join(missing)}")
    refuse_audio(traces, "report")
    pages = []
    for sources, name in zip(jobs, page_names(sources[0] for sources in jobs), strict=True):
        first = sources[0]
        page = args.out if args.out.suffix == ".html" else args.out / name
        with console.busy(f"{', '.join(map(str, sources))} -> {page}"):
            if first in notebooks:
                notebook.run_notebook(first, page, dict(args.parameter))
            else:
                command = shlex.join(["whisperlab", "report", *map(str, sources)])
                title = args.title or (first.name if first in folders else "Traces")
                _report(sources, title, command, args.reference).render(page)
        pages.append(page)
    index = write_index(pages[0].parent)
    console.document({"pages": [str(page) for page in pages], "index": str(index)})
    if console.quiet:
        return
    answers = {entry.href: entry.answer for entry in entries(index.parent, [page for page in pages if page.exists()])}
    for page in pages:
        answer = answers.get(quote(os.fsencode(page.name)))
        console.show(f"{page}: {answer}" if answer else str(page))
    console.show(str(index))


def page_names(sources: Iterable[Path]) -> list[str]:
    """A file name per source, none of them index.html; numbers follow names that would differ in case at most."""
    taken = {"index": "index.html"}
    for source in sources:
        whole = source.resolve().name if source.is_dir() else source.stem  # v1.0 of v1.0, and a name for the folder .
        name = as_path(unicode_text(whole.lstrip("."))).name or "report"
        unique = next(one for n in count(1) if (one := name + f"-{n}" * (n > 1)).casefold() not in taken)
        taken[unique.casefold()] = f"{unique}.html"
    return [*taken.values()][1:]


def _report(sources: Sequence[Path], title: str, command: str, manifest: Path | None) -> "SweepReport":
    from whisperlab.experiments.results_store import STORE, open_store
    from whisperlab.report.sweep import from_store, from_traces

    folder = sources[0]
    if not folder.is_dir():
        references = read_references(manifest) if manifest else {}
        traces = [trace for path in sources for trace in streams(path, references)]
        return from_traces(traces, title=title, command=command)
    store = open_store(folder)
    if not len(store):
        raise SweepError(f"{folder}: no results in its {STORE}; give traces as files")
    return from_store(store, folder=folder, title=title, command=command)
