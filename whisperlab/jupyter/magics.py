"""Magics for IPython and Jupyter, loaded by ``%load_ext whisperlab``: time, resident memory and heap of a cell.

Each shows a data frame and stores it in ``_latency``, ``_peak_memory`` or ``_heap``. Each disturbs the others.
"""

import gc
import re
import time
from pathlib import Path

import pandas as pd
from IPython.core import magic
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from whisperlab.cli.arguments import positive_int
from whisperlab.metrics import PerformanceMetrics
from whisperlab.profiling.passes import traced
from whisperlab.report.page import write_page
from whisperlab.util.process import process_memory, reset_peak_rss

_MIB = 2**20


@magic.magics_class
class Magics(magic.Magics):
    @magic_arguments()
    @argument("-n", type=positive_int, default=1, help="how often the cell runs")
    @magic.line_cell_magic
    def latency(self, line: str, cell: str | None = None) -> None:
        """Run the cell (``-n 5``: five times) and show its milliseconds, and those of the operations timed meanwhile.

        They come from every `PerformanceMetrics` in a variable of the notebook or in its attribute ``metrics``.
        ``%latency -n 5 STATEMENT`` does so for one line.
        """
        if cell is None:
            end = len(re.sub(r"^(\s*-n\s+\S+)?.*", r"\1", line, flags=re.DOTALL))
            line, cell = line[:end], line[end:].strip()
        rounds, metrics = parse_argstring(self.latency, line).n, PerformanceMetrics()
        before = {id(found): found.get_statistics() for found in self._metrics()}
        for _ in range(rounds):
            began = time.perf_counter()
            self._run(cell)
            metrics.record("the cell", time.perf_counter() - began)
        frames = [metrics.to_frame()]
        for found in self._metrics():
            known = before.get(id(found), {})
            rows = found.get_statistics().items()
            grown = [name for name, row in rows if name not in known or row["count"] > known[name]["count"]]
            frames.append(found.to_frame().loc[grown])
        self._show("_latency", pd.concat(frames)[["count", "p50", "p95", "p99", "max"]].round(3))

    @magic_arguments()
    @magic.cell_magic
    def peak_memory(self, line: str, cell: str) -> None:
        """Run the cell and show resident memory in MiB: before, at the peak (VmHWM, which is reset), and after."""
        parse_argstring(self.peak_memory, line)
        gc.collect()
        before = process_memory()
        reset_peak_rss()
        self._run(cell)
        after = process_memory()
        parts = {
            "before": before["VmRSS"],
            "peak": after["VmHWM"],
            "peak above before": after["VmHWM"] - before["VmRSS"],
            "after": after["VmRSS"],
            "anonymous, more than before": after["RssAnon"] - before["RssAnon"],
            "of files, more than before": after["RssFile"] - before["RssFile"],
        }
        self._show("_peak_memory", (pd.Series(parts, name="MiB") / _MIB).to_frame().round(1))

    @magic_arguments()
    @argument("-f", type=Path, help="the file of a flame graph")
    @magic.cell_magic
    def heap(self, line: str, cell: str) -> None:
        """Run the cell under memray and show the lines that held most at the peak; ``-f PAGE`` writes a flame graph."""
        page = parse_argstring(self.heap, line).f
        found = traced(lambda: self._run(cell))
        lines = [(site.bytes / _MIB, site.blocks, site.function) for site in found.top]
        frame = pd.DataFrame(lines, [site.place for site in found.top], ["MiB", "blocks", "function"])
        frame.attrs["peak_bytes"] = found.peak
        print(f"heap: {found.peak / _MIB:,.1f} MiB at the peak, {found.allocations:,} allocations")
        self._show("_heap", frame.round(2))
        if page:
            write_page(page, found.page)
            print(f"flame graph: {page}")

    def _run(self, cell: str) -> None:
        assert self.shell is not None
        self.shell.run_cell(cell).raise_error()

    def _metrics(self) -> list[PerformanceMetrics]:
        """Every metrics object in the notebook's variables."""
        assert self.shell is not None
        values = list(self.shell.user_ns.values())
        every = values + [getattr(value, "metrics", None) for value in values if not isinstance(value, type)]
        return list({id(one): one for one in every if isinstance(one, PerformanceMetrics)}.values())

    def _show(self, name: str, frame: pd.DataFrame) -> None:
        assert self.shell is not None
        self.shell.push({name: frame})
        display(frame)
