"""A layer in training: real parameters, and the integers that they stand for at this moment.

A spiking layer is scale-free: with I = c·(Q x), the spikes depend on Q and on θ/c alone. So a layer trains directly in
units of c: weights become codes Q = round(W/c), thresholds and biases become integers round(θ/c), round(b/c), decays
become m / 2^k. Whatever c a row learns, it costs nothing on the device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from quantal.export.base import names
from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import neurons, planes
from quantal.qat.arithmetic.exact import exact_products, nearest_exponent
from quantal.qat.arithmetic.grids import Grid, ShiftGrid, SoftGrid, TableGrid
from quantal.qat.arithmetic.neurons import NEURONS, UNQUANTIZED, Params, StateRange
from quantal.qat.arithmetic.surrogates import Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps, round_half_up
from quantal.qat.config.schema import Layer as LayerConfig
from quantal.qat.engine import cpu, cuda
from quantal.qat.engine.adjoint import Plan
from quantal.qat.quantizers.normalization import CURRENT_NORMS, CurrentNorm, PspNorm
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS, Differentiable, FullPrecision, Learned, standardized
from torch import Tensor, nn

STATE_SHARPNESS = 4.0
"""The most temperature of the gradient of a state's sigmoids: their sum then has slopes of 0.84 to 1.14 between levels.

Gradients of a state pass its quantizer at every step, so that at T they would grow by up to T / 4 a step.
"""

_LEAST_SCALE = 2.0**-20
"""A row of zeros fits any scale."""

_THRESHOLD_UNITS = 64
"""Of how many units a threshold is made at least, to the nearest power of two, as with 8-bit states.

Thresholds, biases and decayed membranes are rounded to units: these must not get coarse with weights and states.
"""

_LEAST_SPAN = 2.0**-12
"""Of the configured range, what states span at least: finer levels than these take shifts that no 32 bits hold."""

_LEAST = 1 / 64
"""What a gain or a threshold may fall to, of what it was at first: neither may reach 0."""


@dataclass(frozen=True)
class Integers:
    """What a layer amounts to: codes and tables that carry gradients in training and become integers at export.

    rises: what each level of the state grid rises by with each of its ranges, (ranges, levels).
    """

    codes: Any
    recurrent: Any
    bias: Any
    params: Params
    rises: Tensor | None = None

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


class SpikingLayer(nn.Module):
    """One layer of `inputs` → config.size neurons, dense or convolutional, optionally recurrent.

    Input (steps, batch, inputs) → output (steps, batch, size). `rows` are its neurons, or its channels, each of which
    has weights and constants of its own. `unit` (rows, 1) is the real value of one accumulator unit; fan_in_shift,
    recurrent_shift and state_shift align the weights and the state grid with it, added_shift a current that is added.
    `soft` and `sharpness` are those of differentiable quantizers (see `anneal`). `truncate`: of [training], config.py.
    """

    unit_start: Tensor
    shifts: Tensor
    reach: Tensor
    added_shift: Tensor
    soft, sharpness, truncate = False, 10.0, 0

    def __init__(
        self,
        inputs: int,
        config: LayerConfig,
        input_scale: float | Tensor,
        generator: torch.Generator,
        added: "SpikingLayer | None" = None,
    ):
        """input_scale: the most that an input is, of all or of each, (inputs,); added: the layer of config.add."""
        super().__init__()
        self.config, self.window, self.rows = config, config.window, config.rows
        self._added = [added]  # in a list, for it is no part of this module
        if self.window is not None:
            if self.window.size != inputs:
                raise BadInput(f"{config.name}: shape: {list(config.shape)} are not the {inputs} values that it sees")
            inputs = self.window.shape[0] // config.groups * self.window.kernel[0] * self.window.kernel[1]
        self.neuron = NEURONS[config.neuron]
        make, bits = WEIGHT_QUANTIZERS[config.weight_quantizer][0], config.weights
        self.quantizer = FullPrecision(32) if bits == "float" else Learned() if bits == "learned" else make(int(bits))
        self.state_quantizer = None
        if not isinstance(config.states, str) and not self.neuron.stateless:
            make_table = (AFTER_RESET if config.after_reset else STATE_QUANTIZERS)[config.state_quantizer]
            self.state_quantizer = None if make_table is None else make_table(config.states)
        self.scale_per_row = config.scale == "row" and not self.neuron.readout  # a readout's classes are compared
        size = self.rows

        def parameter(count: int, value: float) -> nn.Parameter:
            return nn.Parameter(torch.full((count,), value))

        def uniform(fan_in: int, bound: float | Tensor) -> nn.Parameter:
            return nn.Parameter((torch.rand(size, fan_in, generator=generator) * 2 - 1) * bound)

        self.psp = None
        if config.norm == "psp":
            self.psp = PspNorm(inputs if self.window is None else self.window.shape[0], input_scale)
        input_scale = input_scale if config.norm == "none" else 1.0  # which a norm takes out of itself
        self.weight = uniform(inputs, config.gain / (math.sqrt(inputs) * input_scale))
        fed_back = 1 if config.recurrence == "diagonal" else size
        self.recurrent = uniform(fed_back, config.gain / math.sqrt(fed_back)) if config.recurrent else None
        self.bias = parameter(size, 0.0) if config.bias else None
        many = size if config.decay_per == "neuron" else 1
        self.decay = parameter(many, config.decay) if config.decay < 1 and not self.neuron.stateless else None
        traces = config.synapse != "none" or config.neuron == "alpha"
        self.synapse_decay = parameter(many, config.synapse_decay) if traces else None
        adapts = config.adaptation > 0
        self.adaptation = parameter(size, config.adaptation * config.threshold) if adapts else None
        self.adaptation_decay = parameter(many, config.adaptation_decay) if adapts else None
        if self.adaptation_decay is not None and config.adaptation_spread > 1:
            constants = config.adaptation_spread ** torch.linspace(-1, 1, size) / (1 - config.adaptation_decay)
            self.adaptation_decay.data.copy_((1 - 1 / constants).clamp(min=0))
        # One table of levels serves all rows, so they have one threshold, in units of each row's own learned scale.
        learns = self.neuron.fires and self.state_quantizer is None
        self.threshold = parameter(1 if config.threshold_per == "layer" else size, config.threshold) if learns else None
        self.norm = CurrentNorm(size, config.norm) if config.norm in CURRENT_NORMS else None
        self.ranges = None
        if self.state_quantizer is not None and self.state_quantizer.first:
            self.ranges = nn.Parameter(torch.tensor(self.state_quantizer.first))
        scale = torch.ones(size if self.scale_per_row else 1, 1)
        self.register_buffer("unit_start", scale)
        self.register_buffer("shifts", torch.zeros(3, dtype=torch.int64))
        if self.state_quantizer is not None:
            self.register_buffer("reach", torch.ones(1))
        learns = config.weights != "float" and added is None  # a current that is added has a unit already
        self.unit_gain = nn.Parameter(torch.ones_like(scale), requires_grad=learns)
        self.register_buffer("added_shift", torch.zeros((), dtype=torch.int64), persistent=added is not None)
        self.begin()

    @property
    def added(self) -> "SpikingLayer | None":
        """The layer whose current is added to its own, if any."""
        return self._added[0]

    @property
    def weight_bits(self) -> int:
        """The bits of a code; 32 in full precision."""
        return self.quantizer.bits - self.quantizer.coarse

    @property
    def matrices(self) -> list[Tensor]:
        """Its weight matrices."""
        return [self.weight] if self.recurrent is None else [self.weight, self.recurrent]

    def weights(self, x: Tensor | None = None) -> list[Tensor]:
        """What is quantized in place of `matrices`: standardized rows, columns normalized for x (see PspNorm)."""
        weights = self.matrices
        if self.config.standardize or self.quantizer.standardizes:
            weights = [standardized(matrix) for matrix in weights]
        if self.psp is None:
            return weights
        window, kernels = self.window, weights[0]
        if window is None:
            return [kernels * self.psp.columns(x), *weights[1:]]
        factors = self.psp.columns(None if x is None else planes.by_channel(x, window.shape[0]))
        return [kernels * factors.repeat_interleave(kernels.shape[1] // window.shape[0]), *weights[1:]]

    @torch.no_grad()
    def begin(self) -> None:
        """Starts the quantizer, the scales and the units with the weights as they are."""
        weights = self.weights()
        self.quantizer.begin(weights[0].detach(), self.scale_per_row)
        self.choose_units(self.first_scale(weights[0]), float(self.first_scale(weights[-1]).mean()))

    def first_scale(self, weight: Tensor) -> Tensor:
        """The scale to start from, (size, 1) or (1, 1)."""
        return self.of_rows(self.quantizer.first_scale(weight.detach()).clamp(min=_LEAST_SCALE))

    def of_rows(self, scale: Tensor) -> Tensor:
        """Scales of rows as the layer starts with them: as they are; one for all, (1, 1), without a scale per row; all
        alike where the states have a table, for a row's scale is then its threshold's too."""
        if not self.scale_per_row:
            return scale.mean(dim=0, keepdim=True)
        return scale if self.state_quantizer is None else scale.mean().expand(self.rows, 1)

    @property
    def decays(self) -> dict[str, nn.Parameter]:
        """Those that it has, by name."""
        names = ("decay", "synapse_decay", "adaptation_decay")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def real_threshold(self) -> Tensor | None:
        """The thresholds that the integers stand for, (size,) or (1,)."""
        if self.neuron.fires and self.state_quantizer is not None:
            return self.reach * self.unit.squeeze(1)
        return self.threshold

    @property
    def spans(self) -> bool:
        """Whether its states have a range to choose."""
        table = self.state_quantizer
        if table is not None:
            return table.spanning is not None
        return self.config.state_quantizer == "uniform" and self.config.neuron not in ("alpha", "step")

    @property
    def state_reach(self) -> float:
        """What the levels of a table are measured in at first: the threshold, or what a readout is given for one."""
        return self.config.threshold * (1 if self.neuron.fires else self.config.state_range)

    @torch.no_grad()
    def choose_units(self, scale: Tensor, back: float, span: tuple[float, float] | None = None) -> None:
        """Sets the unit at first, and the three shifts for good.

        The unit is as fine as weights, states and thresholds need it. scale: of the input's weights, (size, 1) or
        (1, 1); back: of the recurrent weights, one for all; span: what the states are to reach from and to, as far as
        their grid leaves that open, where it is not what they have at first. A silent layer's span is no span.
        """
        growth = 1.0 if self.norm is None else self.norm.growth  # a unit is worth so much more after it
        fan_in, back = float(scale.mean()) * growth, back * growth
        reach, states, table = self.state_reach, self.config.states, self.state_quantizer
        state = fan_in
        if span is not None and not 0 < max(-span[0], span[1]) < math.inf:
            span = None
        if table is not None:  # fine enough to tell the levels of any table apart
            state = reach / 2 ** (int(states) + 5)
            if span is not None and table.spanning is not None and self.ranges is not None:
                self.ranges.copy_(table.spanning(span[0] / reach, span[1] / reach, self.ranges))
        elif states != "float" and self.config.state_quantizer == "uniform" and not self.neuron.stateless:
            far = self.config.threshold * self.config.state_range
            reached = far if span is None else max(-span[0], span[1], _LEAST_SPAN * far)
            state = reached / 2 ** (int(states) - 1)
        finest = min(fan_in, back, state)
        if self.config.state_quantizer != "shared":  # whose states and weights count in the same units, as published
            finest = min(finest, reach / _THRESHOLD_UNITS)
        shifts = [nearest_exponent(size / finest) for size in (fan_in, back, state)]
        start = scale * 2.0 ** -shifts[0]
        if self.added is not None:  # in whose units this layer counts, or in finer ones, by a power of two
            self.added_shift.fill_(max(0, nearest_exponent(float(self.added.unit.mean()) / finest)))
            start = self.added.unit * 2.0 ** -int(self.added_shift)
            shifts = [max(0, nearest_exponent(size / float(start.mean()))) for size in (fan_in, back, state)]
        self.unit_start.copy_(start)
        self.shifts.copy_(torch.tensor(shifts))
        if table is not None:
            self.reach.fill_(max(1, round(reach / float(self.unit_start.mean()))))
        self.project()

    @property
    def unit(self) -> Tensor:
        """The real value of one accumulator unit, (rows, 1) or (1, 1)."""
        if self.added is not None:
            return self.added.unit * 2.0 ** -int(self.added_shift)
        return self.unit_start * self.unit_gain

    def products(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (..., inputs) by the weights (rows, inputs of a row) → (..., size)."""
        if self.window is None:
            return x @ weights.t()
        return planes.convolved(x, weights, self.window, self.config.groups)

    def columns(self, x: Tensor) -> Tensor:
        """x (..., inputs) → what a row of weights multiplies, (..., inputs of a row), at each position of a window."""
        return x if self.window is None else planes.seen(x, self.window).transpose(-1, -2)

    def of_neurons(self, table: Tensor) -> Tensor:
        """The constants of rows, (rows,) or (1,), as those of neurons, (size,) or (1,)."""
        each = self.config.size // self.rows
        return table if each == 1 or len(table) == 1 else table.repeat_interleave(each)

    def anneal(self, sharpness: float, soft: bool) -> None:
        """Sets its differentiable quantizers up: their temperature, and whether their forward is soft in training."""
        self.sharpness, self.soft = sharpness, soft
        if isinstance(self.quantizer, Differentiable):
            self.quantizer.sharpness, self.quantizer.soft = sharpness, soft

    def project(self) -> None:
        """Brings the parameters back to where they mean something, after an optimizer's step."""
        with torch.no_grad():
            self.quantizer.project()
            self.unit_gain.clamp_(min=_LEAST)
            if self.threshold is not None:
                self.threshold.clamp_(min=_LEAST * self.config.threshold)
            for decay in self.decays.values():
                decay.clamp_(0, 1 - 2.0**-self.config.decay_bits)
            if self.adaptation is not None:
                self.adaptation.clamp_(min=0)
            if self.ranges is not None and self.state_quantizer is not None:
                least, most = self.state_quantizer.least, self.state_quantizer.most
                self.ranges.clamp_(self.ranges.new_tensor(least), self.ranges.new_tensor(most))

    def integers(self, x: Tensor | None = None) -> Integers:
        """The codes and tables of this moment. In full precision they are real numbers in units of 1.

        A layer with a norm takes its moments from x (steps, batch, inputs) while it trains, else from those it keeps.
        """
        config, unit = self.config, self.unit
        fan_in_shift, recurrent_shift, state_shift = self.shifts.tolist()
        scale = unit * float(1 << fan_in_shift)
        weight, *back = self.weights(x)
        codes = self.quantizer.codes(weight, scale, 0)
        recurrent = self.quantizer.codes(back[0], scale, recurrent_shift - fan_in_shift) if back else None
        bias: Tensor | None = self.bias
        if self.norm is not None:
            # γ(z − μ)/σ + b: what it multiplies a row by goes into the row's unit, its sign into the codes.
            products = None if x is None else self.products(x, (codes * scale).to(x.dtype))
            if products is not None and self.window is not None:
                products = planes.by_channel(products, self.rows)
            sign, factor, offset = self.norm.affine(products)
            bias = offset if bias is None else bias + offset
            codes = codes * sign.unsqueeze(1)
            unit = unit * factor.unsqueeze(1)

        def table(value: Tensor) -> Tensor:
            scaled = value / unit.squeeze(1)
            return scaled if config.weights == "float" else round_half_up(scaled)

        decays: dict[str, Tensor] = dict(self.decays)
        decay_bits = 0
        if config.states != "float":
            decay_bits = config.decay_bits
            for name, decay in decays.items():
                decays[name] = round_half_up((decay * 2.0**decay_bits).clamp(0, 2.0**decay_bits - 1))
        grid, rises = self._grid(state_shift)
        threshold = self.reach if self.neuron.fires and self.state_quantizer is not None else None
        if self.threshold is not None:
            threshold = table(self.threshold)
        if self.threshold is not None and threshold is not None and config.states != "float":
            threshold = self._within_reach(threshold, grid, state_shift)
        return Integers(
            codes=codes,
            recurrent=recurrent,
            bias=None if bias is None else table(bias),
            params=Params(
                **({"decay": None} | decays), threshold=threshold, decay_bits=decay_bits, grid=grid,
                adaptation=None if self.adaptation is None else table(self.adaptation), trace=self._trace_grid(),
                reset=config.reset, timing=config.timing, pool=config.pool, spikes=config.spikes,
                refractory=config.refractory,
            ),
            rises=rises,
        )  # fmt: skip

    def _within_reach(self, threshold: Tensor, grid: Grid, shift: int) -> Tensor:
        """Thresholds from 1 up with a code above them, or the neuron is dead for good; 0 where there is no other.

        Raises BadInput where a threshold of 0 is to be subtracted, or to be told from several times itself.
        """
        config = self.config
        if config.after_reset or self.neuron.stateless:  # they fire before the membrane is quantized
            return threshold.clamp(min=1)
        highest = (int(grid.hi) * 2**shift - 1) // (2 * config.spikes - 1)
        if highest < 1 and (config.reset == "subtract" or config.spikes > 1):
            what = "subtracting it resets nothing" if config.spikes == 1 else "one spike is as many as several"
            raise BadInput(
                f"layer {config.name}: states: {config.states} bits of {config.state_quantizer} end at "
                f"{int(grid.hi) * 2**shift}, so the threshold is 0 and {what}; try more bits"
            )
        return threshold.clamp(min(1, highest), highest)

    def _trace_grid(self) -> ShiftGrid:
        """That of currents and adaptation: as the membrane's at first, were it evenly spaced."""
        if self.config.states == "float":
            return UNQUANTIZED
        half = 2 ** (int(self.config.states) - 1)
        if self.norm is not None:  # the unit of the currents that it leaves has gone into that shift
            return ShiftGrid(int(self.shifts[2]), -half, half - 1)
        units = self.unit_start.flatten().tolist()
        far = self.config.threshold * self.config.state_range * len(units) / math.fsum(units)
        return ShiftGrid(max(0, nearest_exponent(far / half)), -half, half - 1)

    def _grid(self, shift: int) -> tuple[Grid, Tensor | None]:
        """The grid of the states, and what each of its levels rises by with each of its ranges, (ranges, levels)."""
        if self.config.states == "float":
            return UNQUANTIZED, None
        quantizer = self.state_quantizer
        if quantizer is None:
            half = 2 ** (int(self.config.states) - 1)
            return ShiftGrid(shift, -half, half - 1, self.config.after_reset), None
        reach = float(self.reach)
        ranges = self.weight.new_zeros(0) if self.ranges is None else self.ranges
        levels, borders = quantizer.integers(ranges, reach)
        start, rises = int((borders <= 0).sum()), quantizer.basis.t() * reach
        if quantizer.middles is None:
            passes, after_reset = self.config.state_gradient, self.config.after_reset
            return TableGrid(start, len(levels), passes, borders, levels, after_reset=after_reset), rises
        unit = ranges[-1].detach().exp() * reach
        passed = min(self.sharpness, STATE_SHARPNESS) / unit
        grid = TableGrid(start, len(levels), "soft", borders, levels, ranges[-1], passed)
        return SoftGrid(grid, self.sharpness / unit) if self.soft and self.training else grid, rises

    def states(self, params: Params) -> dict[str, StateRange]:
        """The neuron's states by name, and in a recurrent layer the spikes of the step before."""
        return self.neuron.states(params) | ({} if self.recurrent is None else {"spike": neurons.spikes(params)})

    def forward(
        self,
        x: Tensor,
        ops: TorchOps,
        record: dict[str, Tensor] | None = None,
        carried: dict[str, Tensor] | None = None,
        currents: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """x (steps, batch, inputs) → (steps, batch, size); with `record`, also every state after every step.

        `carried` has the states (batch, size) to begin with, or none for those of a new sample; it takes those after
        the last step, through which no gradient passes. Torch's own reading of the step, the reference, is what
        records; without `record` the fused engine, which is equal to it, runs where it can. `currents` has that of
        config.add; where this layer's own name is there, it leaves its own.
        """
        with exact_products(x.device):
            return self._steps(x, ops, record, {} if carried is None else carried, currents)

    def _steps(
        self,
        x: Tensor,
        ops: TorchOps,
        record: dict[str, Tensor] | None,
        carried: dict[str, Tensor],
        currents: dict[str, Tensor] | None,
    ) -> Tensor:
        integers = self.integers(x if self.training else None).mapped(
            lambda codes: codes.to(x.dtype),
            lambda _, table: self.of_neurons(table.to(x.dtype)),
            lambda levels: levels.to(x.dtype),
        )
        fan_in_shift, recurrent_shift, _ = self.shifts.tolist()
        codes: Tensor | None = integers.codes
        if given := self.given(currents):  # products are made here, for all steps at once, and added up
            x, codes = ops.shl(self.products(x, integers.codes), fan_in_shift), None
            fan_in_shift = 0
            if currents is not None and self.added is not None:
                x = x + ops.shl(currents[self.config.add], int(self.added_shift))
            if currents is not None and self.config.name in currents:
                current = currents[self.config.name] = x if integers.bias is None else x + integers.bias
                if record is not None:
                    record[names.record(names.current(self.config.name), "current")] = current
        states = self.states(integers.params)
        for name, s in states.items():
            carried.setdefault(name, x.new_full((x.shape[1], self.config.size), s.init))
        fused = None
        if record is None and x.dtype in (torch.float32, torch.float64):
            fused = {"cpu": cpu, "cuda": cuda}.get(x.device.type)
        if fused is not None and fused.available() and not isinstance(integers.params.grid, SoftGrid):
            plan, tables = self._plan(x, integers, states, ops.surrogate, given)
            if fused is cpu or cuda.fits(plan, x.device):
                out: Tensor = fused.time_loop(
                    plan, x, codes, integers.recurrent if plan.recurrent else None, tables,
                    integers.grid_tables(x.dtype), carried,
                )  # fmt: skip
                return out
        state: dict[str, Any] = carried
        outputs, history = [], []
        for t, product in enumerate(x if codes is None else x @ codes.t()):  # for all steps at once
            if self.truncate and t % self.truncate == 0:
                state = {name: value.detach() for name, value in state.items()}
            feedback = None
            if self.config.recurrent:
                feedback = self._fed_back(state["spike"], integers.recurrent)
            current = neurons.current(ops, product, fan_in_shift, feedback, recurrent_shift, integers.bias)
            output, state = self.neuron.step(ops, current, state, integers.params)
            if self.recurrent is not None:
                state["spike"] = output
            outputs.append(output)
            if record is not None:
                history.append(state)
        carried |= {name: value.detach() for name, value in state.items()}
        if record is not None:
            for name in states:
                record[f"{self.config.name}.{name}"] = torch.stack([s[name] for s in history])
            if not any(state[name] is output for name in state):
                record[f"{self.config.name}.{self.neuron.output_name}"] = torch.stack(outputs)
        return torch.stack(outputs)

    def given(self, currents: Mapping[str, Tensor] | None) -> bool:
        """Whether its products are more than a matrix by what it sees, or others want them."""
        wanted = currents is not None and self.config.name in currents
        return self.window is not None or self.added is not None or wanted

    def _fed_back(self, spikes: Tensor, codes: Tensor) -> Tensor:
        return spikes * codes.t() if self.config.recurrence == "diagonal" else spikes @ codes.t()

    def _plan(
        self, x: Tensor, integers: Integers, states: dict[str, StateRange], surrogate: Surrogate, given: bool
    ) -> tuple[Plan, list[Tensor]]:
        """What the fused engine's kernels depend on, and the tables that they are given."""
        p = integers.params
        tables = ({} if integers.bias is None else {"bias": integers.bias}) | p.tables
        diagonal = self.recurrent is not None and self.config.recurrence == "diagonal"
        fan_in_shift, recurrent_shift, _ = self.shifts.tolist()
        if diagonal:
            tables["diagonal"] = integers.recurrent.squeeze(1)
        if self.ranges is not None:
            tables |= {f"range{k}": value for k, value in enumerate(self.ranges.to(x.dtype).unbind())}
        bare = replace(p.with_tables({}), grid=p.grid.mapped(lambda _: ()))
        plan = Plan(
            self.neuron, bare, tuple(states.items()), (0 if given else fan_in_shift, recurrent_shift),
            self.recurrent is not None and not diagonal, tuple(tables), x.shape[2], self.config.size, surrogate,
            x.dtype == torch.float64, whole_codes=self.config.weights != "float" and not (self.soft and self.training),
            given=given, truncate=self.truncate if self.truncate < len(x) else 0,
        )  # fmt: skip
        return plan, list(tables.values())
