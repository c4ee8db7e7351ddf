"""Where a dense product overtakes event lists: what cpu.DENSE_RATE should be.

Times a feed-forward layer, forward and backward, on one thread, at growing rates of its input: with event lists
always, and never. In turns; medians.
"""

import argparse
import functools
import statistics
import time

import torch

from quantal.qat.config import config_file
from quantal.qat.engine import cpu
from quantal.qat.network.network import SpikingNetwork

LIMITS = {"events": 1.0, "dense": 0.0}  # of the rate, for lists to be used
RATES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def main() -> None:
    """Prints a row for each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--neurons", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    cpu.set_threads(1)
    layers = [{"name": "hidden", "size": chosen.neurons}, {"name": "readout", "size": 2, "neuron": "li"}]
    document = {"task": {"name": "npz"}, "encoder": {"steps": 32}, "layer": layers}
    network = SpikingNetwork(config_file.made(document, "crossover.py"), chosen.inputs, 1)
    kernels = {name: functools.cache(cpu.Kernel) for name in LIMITS}
    print(
        f"| input rate, {chosen.inputs} → {chosen.neurons} | events ms | dense ms | events / dense |\n|---|---|---|---|"
    )
    for rate in RATES:
        x = (torch.rand(32, 32, chosen.inputs, generator=torch.Generator().manual_seed(0)) < rate).float()
        times: dict[str, list[float]] = {name: [] for name in LIMITS}
        for round_number in range(chosen.rounds + 1):
            for name, limit in LIMITS.items():
                cpu.DENSE_RATE, cpu.kernel_for = limit, kernels[name]
                start = time.perf_counter()
                network.stack[0](x, network.ops).sum().backward()
                if round_number > 0:
                    times[name].append(1e3 * (time.perf_counter() - start))
        events, dense = (statistics.median(values) for values in times.values())
        print(f"| {rate:.0%} | {events:.2f} | {dense:.2f} | {events / dense:.2f} |", flush=True)


if __name__ == "__main__":
    main()
