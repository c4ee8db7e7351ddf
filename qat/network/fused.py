"""What the fused engine is given of a layer: the plan of its kernels, and the tables that they read."""

from dataclasses import replace

import torch
from torch import Tensor

from quantal.qat.arithmetic.grids import SoftGrid
from quantal.qat.arithmetic.neurons import StateRange
from quantal.qat.arithmetic.surrogates import Surrogate
from quantal.qat.arithmetic.wiring import Wires
from quantal.qat.engine import cpu, cuda
from quantal.qat.engine.adjoint import Plan
from quantal.qat.network.integers import Integers
from quantal.qat.network.parameters import Parameters


def time_loop(
    layer: Parameters,
    x: Tensor,
    codes: Tensor | None,
    whole: Integers,
    wires: Wires[Tensor],
    states: dict[str, StateRange],
    surrogate: Surrogate,
    truncate: int,
    carried: dict[str, Tensor],
) -> Tensor | None:
    """The output (steps, batch, size) of the fused engine; None where there is none for that device, float or grid.

    x (steps, batch, inputs), or without codes the products (steps, batch, size). carried: see SpikingLayer.forward.
    """
    engine = {"cpu": cpu, "cuda": cuda}.get(x.device.type)
    if engine is None or x.dtype not in (torch.float32, torch.float64) or isinstance(whole.params.grid, SoftGrid):
        return None
    if not engine.available():
        return None
    tables = _tables(layer, wires, x.dtype)
    plan = Plan(
        neuron=wires.neuron,
        params=replace(wires.params.with_tables({}), grid=wires.params.grid.mapped(lambda _: ())),
        states=tuple(states.items()),
        shifts=wires.shifts,
        recurrent=wires.matrix is not None,
        tables=tuple(tables),
        inputs=x.shape[2],
        size=layer.config.size,
        surrogate=surrogate,
        double=x.dtype == torch.float64,
        whole_codes=layer.config.weights.quantized and not (layer.soft and layer.training),
        given=codes is None,
        truncate=truncate if truncate < len(x) else 0,
    )
    if engine is cuda and not cuda.fits(plan, x.device):
        return None
    recurrent = whole.recurrent if plan.recurrent else None
    given = (plan, x, codes, recurrent, list(tables.values()), whole.grid_tables(x.dtype), carried)
    out: Tensor = engine.time_loop(*given)
    return out


def _tables(layer: Parameters, wires: Wires[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """All that gradients reach beside products and states, by the names that the plan knows."""
    tables = ({} if wires.bias is None else {"bias": wires.bias}) | wires.params.tables
    if wires.diagonal is not None:
        tables["diagonal"] = wires.diagonal
    if layer.ranges is not None:
        tables |= {f"range{k}": value for k, value in enumerate(layer.ranges.to(dtype).unbind())}
    return tables
