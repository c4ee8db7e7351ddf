"""The peak memory and the time of training on long sequences, whole and truncated: 4-256R-6 over 1301 steps.

Each row is a process of its own: what was resident before the first batch, at most, and the median time of a batch
(forward, backward, Adam). A penalty on spikes has gradients at every step, not the last alone. Give it a limit to see
that it holds for the truncated ones: --most 512.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from memory import resident

from quantal.qat.config import config_file
from quantal.qat.data.common import Split
from quantal.qat.training.epochs import batch_gradients
from quantal.qat.training.run import Run


def measured(steps: int, batch: int, hidden: int, truncate: int) -> list[float]:
    """[MiB before, MiB at most, ms a batch] of this process."""
    torch.set_num_threads(1)
    document = {
        "task": {"name": "npz"},
        "encoder": {"steps": steps},
        "layer": [
            {"name": "hidden", "size": hidden, "recurrent": True, "weights": {"gain": 3.0}},
            {"name": "readout", "size": 6, "neuron": "li"},
        ],
        "training": {"batch": batch, "truncate": truncate, "penalty": 0.1},
    }
    run = Run(Path(), config_file.made(document, "truncation.py"), 4, 1)
    rng = np.random.default_rng(0)
    split = Split((rng.random((batch, steps, 4)) < 0.1).astype(np.int64), rng.integers(0, 6, batch))
    run.network.train()
    before, taken = resident(), []
    for _ in range(4):
        start = time.perf_counter()
        batch_gradients(run, split, np.arange(batch), torch.float32)
        run.optimizer.step()
        run.network.project()
        taken.append(1000 * (time.perf_counter() - start))
    return [before, resident(), float(np.median(taken[1:]))]


def main() -> None:
    """Prints the rows, and exits with 1 where a truncated one needed more than --most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1301)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--truncate", type=int, nargs="+", default=[0, 200, 50, 10, 1])
    parser.add_argument("--most", type=float, help="MiB; above, the exit code is 1")
    parser.add_argument("--alone", action="store_true", help="measure this process, with one --truncate")
    chosen = parser.parse_args()
    if chosen.alone:
        print(json.dumps(measured(chosen.steps, chosen.batch, chosen.hidden, *chosen.truncate)))
        return
    print("| truncate | before MiB | peak MiB | ms a batch |\n|---|---|---|---|")
    too_much = False
    for truncate in chosen.truncate:
        sizes = [f"--{name}={getattr(chosen, name)}" for name in ("steps", "batch", "hidden")]
        command = [sys.executable, __file__, *sizes, "--truncate", str(truncate), "--alone"]
        before, peak, taken = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {truncate or 'never'} | {before:.0f} | {peak:.0f} | {taken:.0f} |", flush=True)
        too_much |= truncate > 0 and chosen.most is not None and peak > chosen.most
    sys.exit(too_much)


if __name__ == "__main__":
    main()
