'''Trains quantized spiking neural networks and ships them as integers, equal bit for bit.

A **run** is a folder with a network in training, a **build** a folder with all that is made of it as integers. What
takes a configuration takes TOML text, the path of a file of it, or a `Config` as `run.config` is one. These names are
the interface; all others may change. Malformed input raises `BadInput`, what was built and does not run
`ExecutorError`, each with one line. Only what trains, quantizes or lowers imports torch.

The whole way, from an untrained network to what it costs on a core:

>>> import quantal
>>> text = """
... [task]
... name = "digits"
... [encoder]
... steps = 4
... [[layer]]
... name = "hidden"
... size = 16
... recurrent = true
... weights = {weights}
... states = {states}
... [[layer]]
... name = "readout"
... neuron = "li"
... size = 10
... weights = {weights}
... states = {states}
... """
>>> real, coarse = text.format(weights='"float"', states='"float"'), text.format(weights=4, states=8)
>>> data = quantal.load_data(real)
>>> full = quantal.new_run("full", real, data)
>>> full_measures = quantal.train(full, data, epochs=1)
>>> run = quantal.quantize(full, "run", coarse, data)
>>> build = quantal.export_run(run, "build")
>>> quantal.verify(build, on="simulator").mismatches
0
>>> quantal.cost(build, "cortex-m0").ram_state < 256
True
'''

import importlib
from typing import TYPE_CHECKING, Any

from quantal.export import __version__
from quantal.export.base.errors import BadInput, ExecutorError

if TYPE_CHECKING:
    from quantal._builds import CORES, EXECUTORS, cost, load_build, save_build, trace, verify
    from quantal._runs import (
        encode,
        export_run,
        load_data,
        load_run,
        lower,
        measure,
        new_run,
        parameters,
        quantize,
        save_run,
        set_parameters,
        train,
    )

__all__ = [
    "BadInput",
    "CORES",
    "EXECUTORS",
    "ExecutorError",
    "__version__",
    "cost",
    "encode",
    "export_run",
    "load_build",
    "load_data",
    "load_run",
    "lower",
    "measure",
    "new_run",
    "parameters",
    "quantize",
    "save_build",
    "save_run",
    "set_parameters",
    "trace",
    "train",
    "verify",
]

_BUILDS = ("CORES", "EXECUTORS", "cost", "load_build", "save_build", "trace", "verify")
"""What needs no torch; all else of __all__ that is not here yet needs it."""


def __getattr__(name: str) -> Any:
    """Imports what a name stands for when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'quantal' has no attribute {name!r}")
    found = getattr(importlib.import_module("quantal._builds" if name in _BUILDS else "quantal._runs"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
