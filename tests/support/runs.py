"""Runs that are trained, cut off and compared."""

import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from quantal.qat.training.run import Run
from support.commands import Done, quantal, succeed

RESULT = ("checkpoint.safetensors", "metrics.jsonl", "samples.npz")


def train(out: str, *args: object, network: str = "net.toml") -> Done:
    """A new run in the folder `out`."""
    return succeed("train", "--network", network, *args, "--out", out)


def said(done: Done) -> str:
    """What a training says of its network, what is wrong with it included: all but the memory that it took."""
    before, after = re.split(r"^peak memory [1-9]\d* MiB\n", done.out, flags=re.MULTILINE)
    return before + after


def results(run: str) -> dict[str, bytes]:
    """What a run must always give again."""
    return {name: Path(run, name).read_bytes() for name in RESULT}


def write_sequences(path: str) -> None:
    """A task that can be learned: 3 channels over 6 steps, rising in one class and falling in the other."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    ramp = np.arange(6)[:, None] * 30
    x = np.where(y[:, None, None] == 0, ramp, 150 - ramp) + rng.integers(0, 40, (60, 6, 3))
    np.savez(path, x=x, y=y)


def interrupted(*args: object, after: int) -> None:
    """Runs `quantal train`, and stops it as Ctrl-C would when `after` batches, testing included, are done."""
    tensors, left = Run.tensors, after

    def counting(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return tensors(*given)

    with mock.patch.object(Run, "tensors", counting):
        assert quantal("train", *args).code == 130
