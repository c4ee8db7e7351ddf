"""Everything that can run an integer network: a row of EXECUTORS each.

An executor takes an opened build, and how long it may take, and gives a Runner. To add one: a function, and its row.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from quantal.export.base.toolchain import CORES
from quantal.export.run.core import on_core
from quantal.export.run.host import on_host
from quantal.export.run.python import on_interpreter, on_onnx, on_simulator
from quantal.export.run.runner import Runner

EXECUTORS: dict[str, Callable[..., AbstractContextManager[Runner]]] = {
    "interpreter": on_interpreter,
    "simulator": on_simulator,
    "onnx": on_onnx,
    "c-host": on_host,
    **{name: on_core(core) for name, core in CORES.items()},
}
