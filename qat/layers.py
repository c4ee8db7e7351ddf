"""A layer in training: real parameters, and the integers that they stand for at this moment.

A spiking layer is scale-free: with I = c·(Q x), the spikes depend on Q and on θ/c alone. So a layer trains directly in
units of c: weights become codes Q = round(W/c), thresholds and biases become integers round(θ/c), round(b/c), decays
become m / 2^k. Whatever c a row learns, it costs nothing on the device.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qat import neurons
from qat.config import Layer as LayerConfig
from qat.neurons import NEURONS, Params
from qat.ops import TorchOps, round_half_up

_LEAST_GAIN = 1 / 64


def weight_limit(weights: int | str) -> float:
    """The largest code: 2^(b−1) − 1, and 1 for binary and ternary weights. 2 bits and ternary hold the same codes."""
    return 1 if weights in (1, "ternary") else 2 ** (int(weights) - 1) - 1


def weight_codes(w: Tensor, weights: int | str) -> Tensor:
    """Integer codes of w (in units of its scale), with a straight-through gradient inside the range."""
    limit = weight_limit(weights)
    clipped = w.clamp(-limit, limit)
    if weights == 1:  # the sign, 0 counting as +1
        return 2 * round_half_up((clipped + 1) / 2).clamp(max=1) - 1
    return round_half_up(clipped)


def initial_scale(w: Tensor, weights: int | str, per: str) -> Tensor:
    """c for w (rows, inputs), as (rows, 1) or (1, 1): 2·mean|w|/√Q (LSQ, arXiv 1902.08153 §2.1); for ternary
    1.4·mean|w|, so that codes change at 0.7·mean|w| (ternary weight networks, arXiv 1605.04711, eq. 6)."""
    mean = w.abs().mean(dim=1, keepdim=True) if per == "row" else w.abs().mean().reshape(1, 1)
    return mean * (1.4 if weights == "ternary" else 2 / math.sqrt(weight_limit(weights)))


@dataclass(frozen=True)
class Integers:
    """What a layer amounts to: codes and tables that carry gradients in training and become integers at export."""

    codes: Tensor
    recurrent: Tensor | None
    bias: Tensor | None
    params: Params


class SpikingLayer(nn.Module):
    """One fully connected layer of `inputs` → config.size neurons, optionally recurrent.

    Input (steps, batch, inputs) → output (steps, batch, size). `unit` (size, 1) is the real value of one accumulator
    unit; fan_in_shift, recurrent_shift and state_shift align the weights and the state grid with it.
    """

    unit_start: Tensor
    shifts: Tensor

    def __init__(self, inputs: int, config: LayerConfig, input_scale: float, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.neuron = NEURONS[config.neuron]
        size = config.size

        def parameter(count: int, value: float) -> nn.Parameter:
            return nn.Parameter(torch.full((count,), value))

        def uniform(fan_in: int, bound: float) -> nn.Parameter:
            return nn.Parameter((torch.rand(size, fan_in, generator=generator) * 2 - 1) * bound)

        self.weight = uniform(inputs, config.gain / (math.sqrt(inputs) * input_scale))
        self.recurrent = uniform(size, config.gain / math.sqrt(size)) if config.recurrent else None
        self.bias = parameter(size, 0.0) if config.bias else None
        self.decay = parameter(size if config.decay_per == "neuron" else 1, config.decay)
        fires = self.neuron.fires
        self.threshold = parameter(size if config.threshold_per == "neuron" else 1, config.threshold) if fires else None
        self._choose_units()

    @property
    def _scale_per(self) -> str:
        return "layer" if self.neuron.readout else self.config.scale  # classes are compared with each other

    def _choose_units(self) -> None:
        """Sets the unit at first, and the three shifts for good."""
        config, weights = self.config, self.config.weights
        if weights == "float":
            unit = torch.full((1, 1), 2.0**-16)
            fan_in = recurrent = 1.0
        else:
            unit = initial_scale(self.weight.detach(), weights, self._scale_per)
            fan_in = float(unit.mean())
            recurrent = (
                fan_in
                if self.recurrent is None
                else float(initial_scale(self.recurrent.detach(), weights, self._scale_per).mean())
            )
        state = fan_in
        if config.states != "float":
            state = config.state_range * config.threshold / 2 ** (int(config.states) - 1)
        finest = min(fan_in, recurrent, state)
        shifts = [0, 0, 0] if weights == "float" else [round(math.log2(x / finest)) for x in (fan_in, recurrent, state)]
        if weights == "float" and config.states != "float":
            shifts[2] = round(math.log2(state)) + 16
        self.register_buffer("unit_start", unit * 2.0 ** -shifts[0])
        self.register_buffer("shifts", torch.tensor(shifts))
        learned = weights != "float"
        self.unit_gain = nn.Parameter(torch.ones_like(unit), requires_grad=learned)

    @property
    def unit(self) -> Tensor:
        """The real value of one accumulator unit, (size, 1) or (1, 1)."""
        return self.unit_start * self.unit_gain

    def project(self) -> None:
        """Brings the parameters back to where they mean something, after an optimizer's step."""
        with torch.no_grad():
            self.unit_gain.clamp_(min=_LEAST_GAIN)
            self.decay.clamp_(0, 1 - 2.0**-self.config.decay_bits)

    def integers(self) -> Integers:
        """The codes and tables of this moment. In full precision they are real numbers in units of 1."""
        config, unit = self.config, self.unit
        fan_in_shift, recurrent_shift, state_shift = self.shifts.tolist()
        exact = config.weights == "float"

        def codes(w: Tensor, shift: int) -> Tensor:
            scaled = w / (unit * float(1 << shift))
            return scaled if exact else weight_codes(scaled, config.weights)

        def table(value: Tensor) -> Tensor:
            scaled = value / unit.squeeze(1)
            return scaled if exact else round_half_up(scaled)

        lo, hi, decay_bits = -math.inf, math.inf, 0
        decay: Tensor = self.decay
        if config.states == "float":
            state_shift = 0
        else:
            half = 2 ** (int(config.states) - 1)
            lo, hi, decay_bits = -half, half - 1, config.decay_bits
            decay = round_half_up((decay * 2.0**decay_bits).clamp(0, 2.0**decay_bits - 1))
        threshold = None
        if self.threshold is not None:
            threshold = table(self.threshold)
            if config.states != "float":  # at least one code must lie above it, or the neuron is dead for good
                threshold = threshold.clamp(1, hi * 2**state_shift - 1)
        return Integers(
            codes=codes(self.weight, fan_in_shift),
            recurrent=None if self.recurrent is None else codes(self.recurrent, recurrent_shift),
            bias=None if self.bias is None else table(self.bias),
            params=Params(
                threshold=threshold, decay=decay, decay_bits=decay_bits, state_shift=state_shift, lo=lo, hi=hi,
                reset=config.reset, timing=config.timing, pool=config.pool,
            ),
        )  # fmt: skip

    def initial_states(self) -> dict[str, int]:
        """Each state's value before the first step, by name."""
        states = {"u": 0}
        if self.neuron.step is neurons.count:
            states["count"] = 0
        if self.config.pool == "max":
            states["best"] = -(2 ** (int(self.config.states) - 1)) if self.config.states != "float" else -(2**30)
        if self.recurrent is not None:
            states["spike"] = 0
        return states

    def forward(self, x: Tensor, ops: TorchOps, record: dict[str, Tensor] | None = None) -> Tensor:
        """x (steps, batch, inputs) → (steps, batch, size); with `record`, also every state after every step."""
        integers = self.integers()
        dtype = x.dtype
        params = _in_dtype(integers.params, dtype)
        codes, bias = integers.codes.to(dtype), _cast(integers.bias, dtype)
        recurrent = _cast(integers.recurrent, dtype)
        fan_in_shift, recurrent_shift, _ = self.shifts.tolist()
        products = x @ codes.t()  # the input's product for all steps at once
        batch = (x.shape[1], self.config.size)
        state: dict[str, Any] = {
            k: torch.full(batch, v, dtype=dtype, device=x.device) for k, v in self.initial_states().items()
        }
        outputs, history = [], []
        for product in products:
            feedback = None if recurrent is None else state["spike"] @ recurrent.t()
            current = neurons.current(ops, product, fan_in_shift, feedback, recurrent_shift, bias)
            output, state = self.neuron.step(ops, current, state, params)
            if recurrent is not None:
                state["spike"] = output
            outputs.append(output)
            if record is not None:
                history.append(state)
        if record is not None:
            for name in self.initial_states():
                record[f"{self.config.name}.{name}"] = torch.stack([s[name] for s in history])
            if not any(state[name] is output for name in state):
                record[f"{self.config.name}.{self.neuron.output_name}"] = torch.stack(outputs)
        return torch.stack(outputs)


def _cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(dtype)


def _in_dtype(params: Params, dtype: torch.dtype) -> Params:
    return replace(params, threshold=_cast(params.threshold, dtype), decay=_cast(params.decay, dtype))
