"""What SAF costs beside BPTT: memory and time of a training step, and what the digits are learned to.

One network, 784-512-512-512-10 with 4-bit weights and 8-bit states, batch 256, set up as the paper of SAF is (arXiv
2310.02772): 6 steps, τ = 2, V = 1, reset by subtraction at once, a sigmoid's slope below the threshold, .95 cross
entropy + .05 squared error. It is trained by SAF-E and SAF-F, by BPTT of the same layers in torch's autograd, and by
BPTT of the fused engine, which keeps states as integers of 8 bits. Also with 24 and 96 steps.

Each is a process of its own, and they take turns. Tensors: the most bytes that torch's allocator has given out at a
time during one step (forward, backward, Adam), beyond parameters, Adam's moments and input. Resident: by how much the
process has grown, at most, from before its first step to the end. Time: of the processor, on one thread, the median of
the steps of all turns.

The exit code is 1 unless SAF takes at most 0.75 of torch's tensors at 6 steps and as many at 96 as at 6.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from quantal.export.base import portable
from quantal.qat.config import config_file
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.training import Bptt, SafE, SafF
from quantal.qat.config.preset import preset
from quantal.qat.data.registry import load
from quantal.qat.engine import cpu
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training import saf, sitting
from quantal.qat.training.start import new_run

METHODS = ("saf-e", "saf-f", "torch", "fused")
INPUTS, HIDDEN, CLASSES, BATCH = 784, (512, 512, 512), 10, 256
SHARE = 0.75  # of torch's memory, at most
TIMED = 5  # steps of a turn


def trained_step(method: str, steps: int) -> Callable[[], None]:
    """One step of training by that method, on random spikes."""
    neuron = {"decay": 0.5, "timing": "immediate"}
    layers: list[dict[str, object]] = [
        {"name": f"h{i}", "size": n, "neuron": neuron, "weights": {"gain": 3.0}} for i, n in enumerate(HIDDEN)
    ]
    readout = {"name": "readout", "size": CLASSES, "neuron": {"kind": "li", "decay": 0.5}, "states": {"range": 16.0}}
    document = {
        "task": {"name": "npz"},
        "encoder": {"steps": steps},
        "layer": [*layers, readout],
        "training": {"surrogate": "s2nn", "slope": 4.0},
    }
    network = SpikingNetwork(config_file.made(document, "online.py"), INPUTS, 1)
    if method.startswith("saf"):
        saf.hold_decays(network)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], fused=True)
    rng = torch.Generator().manual_seed(0)
    x = (torch.rand(BATCH, steps, INPUTS, generator=rng) < 0.1).float()
    y = torch.randint(CLASSES, (BATCH,), generator=rng)
    target = functional.one_hot(y, CLASSES).float()

    def loss(logits: Tensor) -> Tensor:
        return 0.95 * functional.cross_entropy(logits, y) + 0.05 * functional.mse_loss(logits, target)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if method.startswith("saf"):
            saf.gradients(network, x, loss, method == "saf-e")
        else:
            with mock.patch.object(cpu, "available", return_value=method == "fused"):
                loss(network.logits(x)).backward()
        optimizer.step()
        network.project()

    return step


def peak_bytes(step: Callable[[], None]) -> int:
    """The most bytes of tensors that the step holds at a time, of those that it makes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def measure(method: str, steps: int) -> dict[str, Any]:
    """A turn: the milliseconds of each step, and the memory."""
    torch.set_num_threads(1)
    cpu.set_threads(1)
    step = trained_step(method, steps)
    before, times = portable.peak_memory(), []
    for _ in range(1 + TIMED):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    grown = portable.peak_memory() - before
    return {"ms": times[1:], "resident": grown, "tensors": peak_bytes(step)}


def turn(method: str, steps: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", method, str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def digits(method: str, seed: int) -> float:
    """The test accuracy, in percent, of the digits' preset trained by that method."""
    chosen = preset("digits")
    kind = {"bptt": Bptt, "saf-e": SafE, "saf-f": SafF}[method]
    given = chosen.training
    chosen = replace(chosen, training=kind(epochs=given.epochs, halving=given.halving, seed=seed))
    data = load("digits", None)
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder) / "run", chosen, data)
        return 100 * sitting.train(run, data, chosen.training.epochs, Progress(disable=True))["accuracy"]


def main() -> None:
    """Prints the tables, and whether what is claimed holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 24, 96])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of the digits by each method; 0 for none")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "STEPS"), help="one turn of one contender, as JSON")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], int(chosen.one[1]))))
        return
    cases = list(itertools.product(chosen.steps, METHODS))
    turns: dict[tuple[int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    with Progress(transient=True) as bars:
        for _, (steps, method) in bars.track([*itertools.product(range(chosen.turns), cases)], description="measuring"):
            turns[steps, method].append(turn(method, steps))
    tensors = {case: max(one["tensors"] for one in turns[case]) for case in cases}
    print(
        "| steps | method | tensors, MiB | of torch's | of fused | resident, MiB | ms |\n|---|---|---|---|---|---|---|"
    )
    for steps, method in cases:
        mine = tensors[steps, method]
        grown = statistics.median(one["resident"] for one in turns[steps, method]) / 2**20
        ms = statistics.median(itertools.chain(*(one["ms"] for one in turns[steps, method])))
        shares = " | ".join(f"{mine / tensors[steps, other]:.2f}" for other in ("torch", "fused"))
        print(f"| {steps} | {method} | {mine / 2**20:.1f} | {shares} | {grown:.0f} | {ms:.1f} |")
    if chosen.seeds:
        print("\n| method | digits, % |\n|---|---|")
        for method in ("bptt", "saf-e", "saf-f"):
            reached = [digits(method, seed) for seed in range(chosen.seeds)]
            print(f"| {method} | {', '.join(f'{accuracy:.2f}' for accuracy in reached)} |")
    few, many = min(chosen.steps), max(chosen.steps)
    holds = all(
        tensors[few, method] <= SHARE * tensors[few, "torch"] and tensors[many, method] == tensors[few, method]
        for method in ("saf-e", "saf-f")
    )
    sys.exit(not holds)


if __name__ == "__main__":
    main()
