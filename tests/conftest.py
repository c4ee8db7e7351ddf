"""One thread (two workers share two cores), no waiting for disks, and the fixtures that many tests name."""

import os

import torch

from quantal.qat.engine import cpu
from support.threads import THREADS

pytest_plugins = ["support.fixtures", "support.no_skips"]

os.fsync = lambda handle: None  # what tests write need not outlive a power cut, and disks are slow
torch.set_num_threads(THREADS)
cpu.set_threads(THREADS)
