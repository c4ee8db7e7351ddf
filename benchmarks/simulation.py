"""What bit-exact simulation costs on one core: the interpreter, the emitted simulator and the compiled C, interleaved.

The network is 700-256R-20 with 4-bit weights and 8-bit states, drawn and not trained, its first weights so large that
a few percent of its hidden neurons spike at a step: the share is said below the table. What is timed is one call,
from int64 input (samples, steps, inputs) to every state, spike and output of every step; for the compiled C that
includes starting its process. All executors must agree, or there is no table. The interpreter takes fewer samples a
call than the others, as the table says: it is slow, and no faster a sample in larger batches.
"""

import argparse
import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from quantal.export.base.fixed import Ints
from quantal.export.build import Build, write_build
from quantal.export.ir import interpret
from quantal.export.ir.interpret import Trace
from quantal.export.proof.intervals import Proven
from quantal.export.run import EXECUTORS
from quantal.qat.config import config_file
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork

NAMES = ("interpreter", "simulator", "c-host")
AT_MOST = {"interpreter": 16}  # samples a call
INPUTS, HIDDEN, OUTPUTS = 700, 256, 20
GAIN = 2.8


def drawn(steps: int) -> Proven:
    """The network, random and always the same."""
    torch.manual_seed(0)
    hidden = {"name": "hidden", "size": HIDDEN, "recurrent": True, "weights": {"bits": 4, "gain": GAIN}, "states": 8}
    readout = {"name": "readout", "size": OUTPUTS, "neuron": "li", "weights": 4, "states": 8}
    document = {"task": {"name": "npz"}, "encoder": {"steps": steps}, "layer": [hidden, readout]}
    return lower(SpikingNetwork(config_file.made(document, "simulation.py"), INPUTS, 1), "simulated")


def first_difference(a: Trace, b: Trace) -> str | None:
    """The first record in which two traces differ, over the samples that both have."""
    samples = min(len(a["output"]), len(b["output"]))
    return next((name for name in a if not np.array_equal(a[name][:samples], b[name][:samples])), None)


def started(name: str, build: Build) -> AbstractContextManager[Callable[[Ints], Trace]]:
    """The executor; the simulator in this process, where no start of another is timed with it."""
    if name == "simulator":
        return nullcontext(runpy.run_path(str(build.simulator), run_name="simulator")["run"])
    return EXECUTORS[name](build)


def main() -> None:
    """Times the executors in turn, round after round, and prints medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.02, help="share of inputs that spike at a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--json", action="store_true", help="end with one object of median milliseconds a sample")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # the compiled program inherits it
    torch.set_num_threads(1)
    x: Ints = (np.random.default_rng(0).random((chosen.samples, chosen.steps, INPUTS)) < chosen.rate).astype(np.int64)
    names = [name for name in NAMES if name in (chosen.only or NAMES)]
    inputs = {name: x[: AT_MOST.get(name, len(x))] for name in names}
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        network = drawn(chosen.steps)
        write_build(Path(folder) / "build", network, x[:1], interpret.run(network.network, x[:1]))
        build = Build.open(Path(folder) / "build")
        run, ready_after = {}, {}
        for name in names:
            start = time.perf_counter()
            run[name] = opened.enter_context(started(name, build))
            ready_after[name] = time.perf_counter() - start
        traces = {name: run[name](inputs[name]) for name in names}  # warms up, too
        for name in names[1:]:
            for other in names[: names.index(name)]:
                if record := first_difference(traces[other], traces[name]):
                    sys.exit(f"{name}: {record}: not what the {other} gives")
        spikes = max(traces.values(), key=lambda trace: len(trace["output"]))["hidden.spike"]
        rate, compared = float(spikes.mean()), len(spikes)
        del traces, spikes
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(chosen.rounds):
            for name in names:
                start = time.perf_counter()
                trace = run[name](inputs[name])
                times[name].append(1e3 * (time.perf_counter() - start) / len(inputs[name]))
                del trace
    medians = {name: statistics.median(values) for name, values in times.items()}
    last = names[-1]
    title = f"{INPUTS}-{HIDDEN}R-{OUTPUTS}, {chosen.steps} steps, one core"
    print(f"| {title} | samples | ms a sample | min – max | to {last} |")
    print("|---|---|---|---|---|")
    for name, values in times.items():
        spread, ratio = f"{min(values):.3f} – {max(values):.3f}", medians[name] / medians[last]
        print(f"| {name} | {len(inputs[name])} | {medians[name]:.3f} | {spread} | {ratio:.1f} |")
    print(f"{rate:.1%} of hidden neurons spiked at each step, mean over {compared} samples; {chosen.rounds} rounds.")
    if "c-host" in names:
        print(f"c-host: compiled once before, in {ready_after['c-host']:.2f} s, which is not counted.")
    if chosen.json:
        print(json.dumps({name: round(value, 4) for name, value in medians.items()}))


if __name__ == "__main__":
    main()
