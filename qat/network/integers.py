"""From real parameters to integers: a layer's codes and tables as they are at this moment.

A spiking layer is scale-free: with I = c·(Q x), the spikes depend on Q and on θ/c alone. So a layer trains directly in
units of c: weights become codes Q = round(W/c), thresholds and biases become integers round(θ/c), round(b/c), decays
become m / 2^k. Whatever c a row learns, it costs nothing on the device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.exact import nearest_exponent
from quantal.qat.arithmetic.grids import Grid, ShiftGrid, SoftGrid, TableGrid
from quantal.qat.arithmetic.neurons import UNQUANTIZED, Params
from quantal.qat.arithmetic.torch_ops import round_half_up
from quantal.qat.config.parts.states import Clipped
from quantal.qat.network.parameters import Parameters

STATE_SHARPNESS = 4.0
"""The most temperature of the gradient of a state's sigmoids: their sum then has slopes of 0.84 to 1.14 between levels.

Gradients of a state pass its quantizer at every step, so that at T they would grow by up to T / 4 a step.
"""


@dataclass(frozen=True)
class Integers:
    """What a layer amounts to: codes and tables that carry gradients in training and become integers at export.

    rises: what each level of the state grid rises by with each of its ranges, (ranges, levels). moments: those of the
    batch that they were made for, by the names of the norm's buffers.
    """

    codes: Any
    recurrent: Any
    bias: Any
    params: Params
    rises: Tensor | None = None
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    def mapped(
        self,
        matrix: Callable[[Tensor], Any],
        table: Callable[[str, Tensor], Any],
        levels: Callable[[Tensor], Any],
    ) -> "Integers":
        """The same: `matrix` of the codes, `table` of bias, threshold and decay, `levels` of the state grid's parts."""
        p = self.params
        return replace(
            self,
            codes=matrix(self.codes),
            recurrent=None if self.recurrent is None else matrix(self.recurrent),
            bias=None if self.bias is None else table("bias", self.bias),
            params=replace(
                p.with_tables({name: table(name, value) for name, value in p.tables.items()}),
                grid=p.grid.mapped(levels),
            ),
        )

    def grid_tables(self, dtype: torch.dtype) -> list[Tensor]:
        """[borders (N − 1,), levels (N,), rises (ranges, N), sharpness ()] of the state grid, [] without a table."""
        grid = self.params.grid
        if not isinstance(grid, TableGrid) or self.rises is None:
            return []
        sharpness = grid.levels.new_ones(()) if grid.sharpness is None else grid.sharpness
        parts = (grid.borders, grid.levels, self.rises, sharpness)
        return [part.detach().to(grid.levels.device, dtype).contiguous() for part in parts]


def integers(layer: Parameters, x: Tensor | None = None) -> Integers:
    """The codes and tables of this moment. In full precision they are real numbers in units of 1.

    A layer with a norm takes its moments from x (steps, batch, inputs), or without it those that it keeps.
    """
    config, neuron, unit = layer.config, layer.config.neuron, layer.unit
    fan_in_shift, recurrent_shift, state_shift = layer.shifts.tolist()
    scale = unit * float(1 << fan_in_shift)
    moments = _moments_of_input(layer, x)
    weight, *back = layer.weights(moments)
    codes = layer.quantizer.codes(weight, scale, 0)
    recurrent = layer.quantizer.codes(back[0], scale, recurrent_shift - fan_in_shift) if back else None
    bias: Tensor | None = layer.bias
    if layer.norm is not None:
        # γ(z − μ)/σ + b: what it multiplies a row by goes into the row's unit, its sign into the codes.
        moments = _moments_of_products(layer, x, codes * scale)
        sign, factor, offset = layer.norm.affine(moments)
        bias = offset if bias is None else bias + offset
        codes = codes * sign.unsqueeze(1)
        unit = unit * factor.unsqueeze(1)

    def table(value: Tensor) -> Tensor:
        scaled = value / unit.squeeze(1)
        return scaled if not config.weights.quantized else round_half_up(scaled)

    grid, rises = _grid(layer, state_shift)
    decay_bits, decays = _decays(layer)
    threshold = _threshold(layer, table, grid, state_shift)
    return Integers(
        codes=codes,
        recurrent=recurrent,
        bias=None if bias is None else table(bias),
        params=Params(
            **({"decay": None} | decays), threshold=threshold, decay_bits=decay_bits, grid=grid,
            adaptation=None if layer.adaptation is None else table(layer.adaptation),
            current_grid=_even_grid(layer, "current"), adaptation_grid=_even_grid(layer, "adaptation"),
            reset=neuron.reset, timing=neuron.timing, pool=neuron.pool, spikes=neuron.spikes,
            refractory=neuron.refractory,
        ),
        rises=rises,
        moments=moments or {},
    )  # fmt: skip


def _moments_of_input(layer: Parameters, x: Tensor | None) -> dict[str, Tensor] | None:
    if layer.psp is None or x is None:
        return None
    return layer.psp.moments(x if layer.window is None else planes.by_channel(x, layer.window.shape[0]))


def _moments_of_products(layer: Parameters, x: Tensor | None, weights: Tensor) -> dict[str, Tensor] | None:
    if layer.norm is None or x is None:
        return None
    products = layer.products(x, weights.to(x.dtype))
    return layer.norm.moments(products if layer.window is None else planes.by_channel(products, layer.rows))


def _decays(layer: Parameters) -> tuple[int, dict[str, Tensor]]:
    """(k, every decay as m of m / 2^k); real numbers and k = 0 in full precision."""
    if not layer.config.states.quantized:
        return 0, dict(layer.decays)
    bits = layer.config.neuron.decay_bits
    return bits, {
        name: round_half_up((decay * 2.0**bits).clamp(0, 2.0**bits - 1)) for name, decay in layer.decays.items()
    }


def _threshold(layer: Parameters, table: Callable[[Tensor], Tensor], grid: Grid, shift: int) -> Tensor | None:
    """In units; of a layer whose states have a table, how many a threshold is."""
    if layer.threshold is None:
        return layer.reach if layer.neuron.fires and layer.state_quantizer is not None else None
    threshold = table(layer.threshold)
    return threshold if not layer.config.states.quantized else _within_reach(layer, threshold, grid, shift)


def _within_reach(layer: Parameters, threshold: Tensor, grid: Grid, shift: int) -> Tensor:
    """Thresholds from 1 up with a code above them, or the neuron is dead for good; 0 where there is no other.

    Raises BadInput where a threshold of 0 is to be subtracted, or to be told from several times itself.
    """
    config, neuron = layer.config, layer.config.neuron
    if config.after_reset or layer.neuron.stateless:  # they fire before the membrane is quantized
        return threshold.clamp(min=1)
    highest = (int(grid.hi) * 2**shift - 1) // (2 * neuron.spikes - 1)
    if highest < 1 and (neuron.reset == "subtract" or neuron.spikes > 1):
        what = "subtracting it resets nothing" if neuron.spikes == 1 else "one spike is as many as several"
        raise BadInput(
            f"layer {config.name}: states: {config.states.membrane} bits of {config.states.quantizer} end at "
            f"{int(grid.hi) * 2**shift}, so the threshold is 0 and {what}; try more bits"
        )
    return threshold.clamp(min(1, highest), highest)


def _even_grid(layer: Parameters, state: str) -> ShiftGrid:
    """That of the current or of the adaptation: over the range that the membrane's spans at first, evenly spaced."""
    states = layer.config.states
    if not layer.config.states.quantized:
        return UNQUANTIZED
    bits = states.width(state)
    half = 2 ** (bits - 1)
    if layer.norm is not None:  # the unit of the currents that it leaves has gone into that shift
        return ShiftGrid(max(0, int(layer.shifts[2]) + states.width("membrane") - bits), -half, half - 1)
    units = layer.unit_start.flatten().tolist()
    far = layer.config.neuron.threshold * states.range * len(units) / math.fsum(units)
    return ShiftGrid(max(0, nearest_exponent(far / half)), -half, half - 1)


def _grid(layer: Parameters, shift: int) -> tuple[Grid, Tensor | None]:
    """The grid of the states, and what each of its levels rises by with each of its ranges, (ranges, levels)."""
    config, quantizer = layer.config, layer.state_quantizer
    if not config.states.quantized:
        return UNQUANTIZED, None
    if quantizer is None:
        half = 2 ** (config.states.width("membrane") - 1)
        return ShiftGrid(shift, -half, half - 1, config.after_reset), None
    reach = float(layer.reach)
    ranges = layer.weight.new_zeros(0) if layer.ranges is None else layer.ranges
    levels, borders = quantizer.integers(ranges, reach)
    start, rises = int((borders <= 0).sum()), quantizer.basis.t() * reach
    if quantizer.middles is None:
        assert isinstance(config.states, Clipped)
        passes, after_reset = config.states.gradient, config.after_reset
        return TableGrid(start, len(levels), passes, borders, levels, after_reset=after_reset), rises
    unit = ranges[-1].detach().exp() * reach
    passed = min(layer.sharpness, STATE_SHARPNESS) / unit
    grid = TableGrid(start, len(levels), "soft", borders, levels, ranges[-1], passed)
    return SoftGrid(grid, layer.sharpness / unit) if layer.soft and layer.training else grid, rises
