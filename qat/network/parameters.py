"""What a layer learns, by name and layout, and what brings it back to where it means something."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.exact import FLOAT32, INT64
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.config.parts.layers import Weighted
from quantal.qat.config.parts.states import Uniform
from quantal.qat.config.parts.weights import Weights
from quantal.qat.network.units import Span, largest_unit, state_step, units
from quantal.qat.quantizers.normalization import CURRENT_NORMS, MOMENTUM, CurrentNorm, PspNorm
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import (
    WEIGHT_QUANTIZERS,
    Differentiable,
    FullPrecision,
    Learned,
    WeightQuantizer,
    standardized,
)

_LEAST_SCALE = 2.0**-20
"""A row of zeros fits any scale."""

_LEAST = 1 / 64
"""What a gain or a threshold may fall to, of what it was at first: neither may reach 0."""


class Parameters(nn.Module):
    """The real parameters of a layer of `inputs` → config.size neurons, and the unit in which it counts.

    `rows` are its neurons, or the channels of a convolution, each with weights and constants of its own. Learned, those
    in brackets only where the configuration asks for them:

        weight              (rows, inputs of a row)
        [recurrent]         (rows, rows); (rows, 1) where each neuron feeds itself back alone
        [bias]              (rows,)
        [threshold]         (rows,) or (1,)
        [adaptation]        (rows,), by what a spike raises the threshold
        [decay], [synapse_decay], [adaptation_decay]   (rows,) or (1,), from 0 to 1
        [ranges]            (R,), those of the state quantizer's table
        unit_gain           (rows, 1) or (1, 1), what the unit is by now, of unit_start

    Chosen once, see `choose_units`: unit_start, as unit_gain; shifts (3,), of the input's weights, the recurrent ones
    and the state grid; [added_shift] (), of a current that is added; [reach] (1,), a threshold in units where states
    have a table. The quantizer, the norm and the psp norm have parameters of their own. network/axes.py says whose is
    which axis. `soft` and `sharpness` are those of differentiable quantizers (see `anneal`).
    """

    unit_start: Tensor
    shifts: Tensor
    reach: Tensor
    added_shift: Tensor
    soft, sharpness = False, 10.0

    def __init__(
        self,
        inputs: int,
        config: Weighted,
        input_scale: float | Tensor,
        generator: torch.Generator,
        added: "Parameters | None" = None,
    ):
        """input_scale: the most that an input is, of all or of each, (inputs,); added: the layer of config.add."""
        super().__init__()
        self.config, self.window, self.rows = config, config.window, config.rows
        self._added = [added]  # in a list, for it is no part of this module
        if self.window is not None:
            if self.window.size != inputs:
                raise BadInput(
                    f"{config.name}: shape: {list(self.window.shape)} are not the {inputs} values that it sees"
                )
            inputs = self.window.shape[0] // config.groups * self.window.kernel[0] * self.window.kernel[1]
        self.neuron = NEURONS[config.neuron.kind]
        self.quantizer = _weight_quantizer(config.weights)
        self.state_quantizer = None
        if config.states.quantized and not self.neuron.stateless:
            make_table = (AFTER_RESET if config.after_reset else STATE_QUANTIZERS)[config.states.quantizer]
            self.state_quantizer = None if make_table is None else make_table(config.states.width("membrane"))
        self.scale_per_row = (
            config.weights.scale == "row" and not self.neuron.readout
        )  # a readout's classes are compared
        size = self.rows

        def parameter(count: int, value: float) -> nn.Parameter:
            return nn.Parameter(torch.full((count,), value, **FLOAT32))

        def uniform(fan_in: int, bound: float | Tensor) -> nn.Parameter:
            return nn.Parameter((torch.rand(size, fan_in, generator=generator, **FLOAT32) * 2 - 1) * bound)

        self.psp = None
        if config.norm == "psp":
            self.psp = PspNorm(inputs if self.window is None else self.window.shape[0], input_scale)
        input_scale = input_scale if config.norm == "none" else 1.0  # which a norm takes out of itself
        gain = config.weights.gain
        self.weight = uniform(inputs, gain / (math.sqrt(inputs) * input_scale))
        fed_back = 1 if config.recurrent == "diagonal" else size
        self.recurrent = uniform(fed_back, gain / math.sqrt(fed_back)) if config.recurrent else None
        self.bias = parameter(size, 0.0) if config.bias else None
        neuron, adaptation = config.neuron, config.neuron.adaptation
        many = size if neuron.decay_per == "neuron" else 1
        decays = {name: parameter(many, value) for name, value in neuron.decays.items()}
        self.decay = decays.get("decay")
        self.synapse_decay = decays.get("synapse_decay")
        self.adaptation = None if adaptation is None else parameter(size, adaptation.amount * neuron.threshold)
        self.adaptation_decay = decays.get("adaptation_decay")
        if self.adaptation_decay is not None and adaptation is not None and adaptation.spread > 1:
            spread = adaptation.spread ** torch.linspace(-1, 1, size, **FLOAT32)
            constants = spread / (1 - adaptation.decay)
            self.adaptation_decay.data.copy_((1 - 1 / constants).clamp(min=0))
        # One table of levels serves all rows, so they have one threshold, in units of each row's own learned scale.
        learns = self.neuron.fires and self.state_quantizer is None
        self.threshold = parameter(1 if neuron.threshold_per == "layer" else size, neuron.threshold) if learns else None
        self.norm = CurrentNorm(size, config.norm) if config.norm in CURRENT_NORMS else None
        self.ranges = None
        if self.state_quantizer is not None and self.state_quantizer.first:
            self.ranges = nn.Parameter(torch.tensor(self.state_quantizer.first, **FLOAT32))
        scale = torch.ones(size if self.scale_per_row else 1, 1, **FLOAT32)
        self.register_buffer("unit_start", scale)
        self.register_buffer("shifts", torch.zeros(3, **INT64))
        if self.state_quantizer is not None:
            self.register_buffer("reach", torch.ones(1, **FLOAT32))
        learns = config.weights.quantized and added is None  # a current that is added has a unit already
        self.unit_gain = nn.Parameter(torch.ones_like(scale), requires_grad=learns)
        self.register_buffer("added_shift", torch.zeros((), **INT64), persistent=added is not None)
        self.begin()

    # ---- what there is

    @property
    def added(self) -> "Parameters | None":
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

    def weights(self, moments: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """What is quantized in place of `matrices`: rows standardized, columns as a psp norm has them.

        moments: those that the norm goes by, in place of the kept ones.
        """
        weights = self.matrices
        if self.config.weights.standardize or self.quantizer.standardizes:
            weights = [standardized(matrix) for matrix in weights]
        if self.psp is None:
            return weights
        factors = self.psp.columns(moments)
        if self.window is not None:
            factors = factors.repeat_interleave(weights[0].shape[1] // self.window.shape[0])
        return [weights[0] * factors, *weights[1:]]

    @property
    def decays(self) -> dict[str, nn.Parameter]:
        """Those that it has, by name."""
        names = ("decay", "synapse_decay", "adaptation_decay")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def unit(self) -> Tensor:
        """The real value of one accumulator unit, (rows, 1) or (1, 1)."""
        if self.added is not None:
            return self.added.unit * 2.0 ** -int(self.added_shift)
        return self.unit_start * self.unit_gain

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
        return isinstance(self.config.states, Uniform) and self.config.neuron.kind not in ("alpha", "step")

    @property
    def state_reach(self) -> float:
        """What the levels of a table are measured in at first: the threshold, or what a readout is given for one."""
        return self.config.neuron.threshold * (1 if self.neuron.fires else self.config.states.range)

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

    def first_scale(self, weight: Tensor) -> Tensor:
        """The scale to start from, (size, 1) or (1, 1)."""
        return self.of_rows(self.quantizer.first_scale(weight.detach()).clamp(min=_LEAST_SCALE))

    def of_rows(self, scale: Tensor) -> Tensor:
        """Scales of rows as the layer starts with them: as they are; one for all, (1, 1), without a scale per row; all
        alike where the states have a table, for a row's scale is then its threshold's too."""
        if not self.scale_per_row:
            return scale.mean(dim=0, keepdim=True)
        return scale if self.state_quantizer is None else scale.mean().expand(self.rows, 1)

    # ---- what changes it

    @torch.no_grad()
    def begin(self) -> None:
        """Starts the quantizer, the scales and the units with the weights as they are."""
        weights = self.weights()
        self.quantizer.begin(weights[0].detach(), self.scale_per_row)
        self.choose_units(self.first_scale(weights[0]), float(self.first_scale(weights[-1]).mean()))

    @torch.no_grad()
    def choose_units(self, scale: Tensor, back: float, span: Span | None = None) -> None:
        """Sets the unit at first, and the shifts for good.

        scale: of the input's weights, (size, 1) or (1, 1); back: of the recurrent weights, one for all; span: what the
        states are to reach from and to, as far as their grid leaves that open, where it is not what they have at first.
        A silent layer's span is no span.
        """
        reach, table = self.state_reach, self.state_quantizer
        if span is not None and not 0 < max(-span[0], span[1]) < math.inf:
            span = None
        if span is not None and table is not None and table.spanning is not None and self.ranges is not None:
            self.ranges.copy_(table.spanning(span[0] / reach, span[1] / reach, self.ranges))
        chosen = units(
            scale,
            back,
            state_step(self.config, reach, table is not None, span),
            largest_unit(self.config, reach),
            growth=1.0 if self.norm is None else self.norm.growth,
            added=None if self.added is None else self.added.unit,
        )
        self.unit_start.copy_(chosen.start)
        self.shifts.copy_(self.shifts.new_tensor([chosen.fan_in, chosen.recurrent, chosen.state]))
        self.added_shift.fill_(chosen.added)
        if table is not None:
            self.reach.fill_(max(1, round(reach / float(self.unit_start.mean()))))
        self.project()

    @torch.no_grad()
    def keep(self, moments: Mapping[str, Tensor], share: float = MOMENTUM) -> None:
        """Moves the moments that its norm keeps by that share towards those of a batch (see `integers`)."""
        for norm in (self.norm, self.psp):
            if norm is not None:
                norm.keep(moments, share)

    def anneal(self, sharpness: float, soft: bool) -> None:
        """Sets its differentiable quantizers up: their temperature, and whether their forward is soft in training."""
        self.sharpness, self.soft = sharpness, soft
        if isinstance(self.quantizer, Differentiable):
            self.quantizer.sharpness, self.quantizer.soft = sharpness, soft

    @torch.no_grad()
    def project(self) -> None:
        """Brings the parameters back to where they mean something, after an optimizer's step."""
        self.quantizer.project()
        self.unit_gain.clamp_(min=_LEAST)
        if self.threshold is not None:
            self.threshold.clamp_(min=_LEAST * self.config.neuron.threshold)
        for decay in self.decays.values():
            decay.clamp_(0, 1 - 2.0**-self.config.neuron.decay_bits)
        if self.adaptation is not None:
            self.adaptation.clamp_(min=0)
        if self.ranges is not None and self.state_quantizer is not None:
            least, most = self.state_quantizer.least, self.state_quantizer.most
            self.ranges.clamp_(self.ranges.new_tensor(least), self.ranges.new_tensor(most))


def _weight_quantizer(weights: Weights) -> WeightQuantizer:
    if not weights.quantized:
        return FullPrecision(32)
    return Learned() if weights.learns_bits else WEIGHT_QUANTIZERS[weights.quantizer][0](int(weights.bits))
