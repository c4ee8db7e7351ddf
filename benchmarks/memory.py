"""The peak memory of training: one step of 700-N-20, its hidden layer recurrent, forward, backward and Adam.

Prints what was resident before the data, and at most. Give it limits to see that they hold: --most 2048.
"""

import argparse
import sys

import torch
from torch.nn import functional

from quantal.export.base import portable
from quantal.qat.config import config_file
from quantal.qat.network.network import SpikingNetwork


def resident() -> float:
    """The most memory that was resident until now, in MiB."""
    return portable.peak_memory() / 2**20


def main() -> None:
    """Measures, prints a row, and exits with 1 where more than --most was needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--train-steps", type=int, default=2)
    parser.add_argument("--most", type=float, help="MiB; above, the exit code is 1")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    hidden = {"name": "hidden", "size": chosen.hidden, "recurrent": True, "weights": {"gain": 3.0}}
    readout = {"name": "readout", "size": 20, "neuron": "li"}
    document = {"task": {"name": "npz"}, "encoder": {"steps": chosen.steps}, "layer": [hidden, readout]}
    network = SpikingNetwork(config_file.made(document, "memory.py"), 700, 1)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], fused=True)
    before = resident()
    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(chosen.batch, chosen.steps, 700)
    for sample in x:
        sample.copy_(torch.rand(sample.shape, generator=rng) < 0.02)
    y = torch.randint(20, (chosen.batch,), generator=rng)
    for _ in range(chosen.train_steps):
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(network.logits(x), y).backward()
        optimizer.step()
        network.project()
    print("| hidden | steps | batch | input MiB | before MiB | peak MiB |\n|---|---|---|---|---|---|")
    mib = x.numel() * x.element_size() / 2**20
    print(f"| {chosen.hidden} | {chosen.steps} | {chosen.batch} | {mib:.0f} | {before:.0f} | {resident():.0f} |")
    sys.exit(chosen.most is not None and resident() > chosen.most)


if __name__ == "__main__":
    main()
