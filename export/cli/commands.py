"""The commands by name. A command's module is imported when it is called: `quantal cost` starts without torch."""

import importlib
from typing import Any

from quantal.export.base.errors import BadInput

COMMANDS = {
    "demo": ("quantal.qat.cli.demo:demo", "Train on real data, export, verify everywhere, count the cost."),
    "train": ("quantal.qat.cli.train:train", "Train a network with its weights and states quantized."),
    "prune": ("quantal.qat.cli.prune:prune", "Leave fewer neurons in a run's layers, to be trained again."),
    "export": ("quantal.qat.cli.export:export", "Turn a run into integers: C header, simulator, golden vectors."),
    "verify": ("quantal.export.cli.verify:verify", "Compare every state, spike and output with torch's."),
    "cost": ("quantal.export.cli.cost:cost", "Flash, RAM and instructions a step on each core."),
}
REFERENCE = "quantal.qat.reference:of_run"
"""What runs torch again for `verify --run`."""


def by_name(where: str) -> Any:
    """The object that "module:name" names. Raises BadInput where it needs a package that is not installed."""
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "quantal"):
            raise
        raise BadInput(f"this needs {package}, which is not installed here: pip install quantal") from None
