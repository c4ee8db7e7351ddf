"""What the studies ask of a network that can be deployed: exported, compared with torch bit for bit, and counted."""

from pathlib import Path

from quantal.export.build import Build, write_build
from quantal.export.report.cost import compiled_sizes, measure
from quantal.export.run.verify import batched, verify
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.trace import hard_trace
from quantal.qat.training.run import Run

EXECUTORS = ("interpreter", "c-host")
CORE = "cortex-m4"


def deploy(run: Run, folder: Path) -> tuple[Build, int]:
    """The run's build in `folder`, and in how many values of its golden vectors EXECUTORS differ from torch."""
    samples, lowered = run.samples(), lower(run.network, "study")
    trace = hard_trace(run.network, samples.x, exact_dtype(lowered))
    write_build(folder, lowered, samples.x, trace)
    build, mismatches = Build.open(folder), 0
    for executor in EXECUTORS:
        comparison, error = verify(build, executor, batched(samples.x, trace, len(samples.x)), lambda _: None)
        if error or not comparison.values:
            raise RuntimeError(error or "nothing was compared")
        mismatches += comparison.mismatches
    return build, mismatches


def size(build: Build) -> int:
    """Bytes of constant tables and state of the compiled header."""
    sizes = compiled_sizes(build, CORE)
    return sizes.tables + sizes.bss + sizes.data


def instructions(build: Build, samples: int | None = None) -> int:
    """Instructions a step, on average over so many of the build's samples, or all."""
    x, _ = build.vectors()
    return round(measure(build, CORE, x[:samples], lambda _: None).instructions_mean)
