"""What the studies have in common: networks are made one by one, on some cores, and each adds its rows to a CSV.

What stands in the CSV is not run again, so that a study that was cut off goes on.
"""

import argparse
import csv
import io
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from math import isnan
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from quantal.export.base import files
from quantal.qat.engine import cpu

Key = tuple[str, ...]
SILENT = Progress(disable=True)
PLOTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "plots"


class Rows:
    """The rows of a CSV, by what stands in their `key` columns; `figures` are the others'."""

    def __init__(self, path: Path, key: Sequence[str], figures: Sequence[str]):
        self.path, self.key, self.columns = path, tuple(key), (*key, *figures)
        self.found: dict[Key, dict[str, str]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.found = {tuple(row[name] for name in key): row for row in csv.DictReader(file)}

    def __contains__(self, key: Iterable[object]) -> bool:
        return tuple(map(str, key)) in self.found

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(self.found.values())

    def add(self, values: Iterable[object]) -> None:
        """A row of all columns, unless there is one with its key; the file is written anew."""
        row = dict(zip(self.columns, map(str, values), strict=True))
        self.found.setdefault(tuple(row[name] for name in self.key), row)
        lines = sorted(",".join(row[name] for name in self.columns) for row in self)
        files.write(self.path, "\n".join([",".join(self.columns), *lines]) + "\n")

    def run(self, work: Callable[..., Iterable[Iterable[object]]], parts: Sequence[tuple[Any, ...]], jobs: int) -> int:
        """Adds the rows that `work` returns for the arguments of each part, `jobs` at a time; how many parts failed."""
        if not parts:
            return 0
        failed = 0
        spawned = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _on_one_core)
        with Progress() as bars, spawned as pool:
            pending = {pool.submit(work, *part): part for part in parts}
            for future in bars.track(as_completed(pending), total=len(parts), description="networks"):
                try:
                    for row in future.result():
                        self.add(row)
                except Exception as error:
                    failed += 1
                    print(f"{pending[future]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return failed


def _on_one_core() -> None:
    torch.set_num_threads(1)
    cpu.set_threads(1)


def parser(description: str | None, side_by_side: bool = True) -> argparse.ArgumentParser:
    """With the options that studies have; --jobs unless networks begin with one that any of them may have to train."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="without it, what there is is printed")
    found.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number, exclusive")
    if side_by_side:
        found.add_argument("--jobs", type=int, default=2, help="networks trained side by side, a core each")
    return found


def write_figure(name: str, figure: Any) -> None:
    """Writes a figure of pyplot as PLOTS/NAME.svg; equal figures are equal bytes."""
    memory = io.BytesIO()
    figure.savefig(memory, format="svg", metadata={"Date": None}, bbox_inches="tight")
    files.write(PLOTS / f"{name}.svg", memory.getvalue())


def numbers(rows: Iterable[dict[str, str]], column: str = "accuracy") -> tuple[float, float]:
    """Mean and standard deviation; (nan, nan) without rows, and a deviation of nan for one."""
    values, nan = [float(row[column]) for row in rows], float("nan")
    return (statistics.mean(values) if values else nan), (statistics.stdev(values) if len(values) > 1 else nan)


def cell(rows: Iterable[dict[str, str]], column: str = "accuracy", digits: int = 1) -> str:
    """Mean ± deviation, of one row the value; a dash without any."""
    mean, deviation = numbers(rows, column)
    if isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown. The first `words` columns are text, the others figures."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
