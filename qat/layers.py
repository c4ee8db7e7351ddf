"""A layer in training: real parameters, and the integers that they stand for at this moment.

A spiking layer is scale-free: with I = c·(Q x), the spikes depend on Q and on θ/c alone. So a layer trains directly in
units of c: weights become codes Q = round(W/c), thresholds and biases become integers round(θ/c), round(b/c), decays
become m / 2^k. Whatever c a row learns, it costs nothing on the device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qat import engine, engine_cuda, neurons
from qat.adjoint import Plan
from qat.config import Layer as LayerConfig
from qat.neurons import NEURONS, SPIKE, Params, StateRange
from qat.ops import TorchOps, round_half_up
from qat.quantizers import WEIGHT_QUANTIZERS

_LEAST = 1 / 64
"""What a gain or a threshold may fall to, of what it was at first: neither may reach 0."""


@dataclass(frozen=True)
class Integers:
    """What a layer amounts to: codes and tables that carry gradients in training and become integers at export."""

    codes: Any
    recurrent: Any
    bias: Any
    params: Params

    def mapped(self, matrix: Callable[[Tensor], Any], table: Callable[[str, Tensor], Any]) -> "Integers":
        """The same, `matrix` applied to the codes, and `table` to bias, threshold and decay with their names."""
        p = self.params
        return Integers(
            codes=matrix(self.codes),
            recurrent=None if self.recurrent is None else matrix(self.recurrent),
            bias=None if self.bias is None else table("bias", self.bias),
            params=replace(
                p,
                threshold=None if p.threshold is None else table("threshold", p.threshold),
                decay=table("decay", p.decay),
            ),
        )


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
        self.quantizer = WEIGHT_QUANTIZERS[config.weights]
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

    def _first_scale(self, weight: Tensor) -> Tensor:
        """(size, 1), or (1, 1) with one scale a layer: a readout has one, for its classes are compared."""
        size = weight.detach().abs()
        per_row = self.config.scale == "row" and not self.neuron.readout
        return self.quantizer.initial_scale(size.mean(dim=1, keepdim=True) if per_row else size.mean().reshape(1, 1))

    def _choose_units(self) -> None:
        """Sets the unit at first, and the three shifts for good: the finest of weights and state grid is the unit."""
        config = self.config
        scale = self._first_scale(self.weight)
        fan_in = float(scale.mean())
        recurrent = fan_in if self.recurrent is None else float(self._first_scale(self.recurrent).mean())
        state = fan_in
        if config.states != "float":
            state = config.state_range * config.threshold / 2 ** (int(config.states) - 1)
        finest = min(fan_in, recurrent, state)
        shifts = [round(math.log2(size / finest)) for size in (fan_in, recurrent, state)]
        self.register_buffer("unit_start", scale * 2.0 ** -shifts[0])
        self.register_buffer("shifts", torch.tensor(shifts))
        self.unit_gain = nn.Parameter(torch.ones_like(scale), requires_grad=config.weights != "float")

    @property
    def unit(self) -> Tensor:
        """The real value of one accumulator unit, (size, 1) or (1, 1)."""
        return self.unit_start * self.unit_gain

    def project(self) -> None:
        """Brings the parameters back to where they mean something, after an optimizer's step."""
        with torch.no_grad():
            self.unit_gain.clamp_(min=_LEAST)
            if self.threshold is not None:
                self.threshold.clamp_(min=_LEAST * self.config.threshold)
            self.decay.clamp_(0, 1 - 2.0**-self.config.decay_bits)

    def integers(self) -> Integers:
        """The codes and tables of this moment. In full precision they are real numbers in units of 1."""
        config, unit = self.config, self.unit
        fan_in_shift, recurrent_shift, state_shift = self.shifts.tolist()

        def codes(w: Tensor, shift: int) -> Tensor:
            return self.quantizer.codes(w * (1 / (unit * float(1 << shift))))

        def table(value: Tensor) -> Tensor:
            scaled = value / unit.squeeze(1)
            return scaled if config.weights == "float" else round_half_up(scaled)

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

    def states(self, params: Params) -> dict[str, StateRange]:
        """The neuron's states by name, and in a recurrent layer the spikes of the step before."""
        return self.neuron.states(params) | ({} if self.recurrent is None else {"spike": SPIKE})

    def forward(self, x: Tensor, ops: TorchOps, record: dict[str, Tensor] | None = None) -> Tensor:
        """x (steps, batch, inputs) → (steps, batch, size); with `record`, also every state after every step.

        Torch's own reading of the step, the reference, is what records; without `record` the fused engine, which is
        equal to it, runs where it can.
        """
        integers = self.integers().mapped(lambda codes: codes.to(x.dtype), lambda _, table: table.to(x.dtype))
        fan_in_shift, recurrent_shift, _ = self.shifts.tolist()
        states = self.states(integers.params)
        fused = None
        if record is None and x.dtype in (torch.float32, torch.float64):
            fused = {"cpu": engine, "cuda": engine_cuda}.get(x.device.type)
        if fused is not None and fused.available():
            plan, tables = self._plan(x, integers, states, ops.slope)
            if fused is engine or engine_cuda.fits(plan, x.device):
                out: Tensor = fused.time_loop(plan, x, integers.codes, integers.recurrent, tables)
                return out
        state: dict[str, Any] = {name: x.new_full((x.shape[1], self.config.size), s.init) for name, s in states.items()}
        outputs, history = [], []
        for product in x @ integers.codes.t():  # the input's product for all steps at once
            feedback = None if self.recurrent is None else state["spike"] @ integers.recurrent.t()
            current = neurons.current(ops, product, fan_in_shift, feedback, recurrent_shift, integers.bias)
            output, state = self.neuron.step(ops, current, state, integers.params)
            if self.recurrent is not None:
                state["spike"] = output
            outputs.append(output)
            if record is not None:
                history.append(state)
        if record is not None:
            for name in states:
                record[f"{self.config.name}.{name}"] = torch.stack([s[name] for s in history])
            if not any(state[name] is output for name in state):
                record[f"{self.config.name}.{self.neuron.output_name}"] = torch.stack(outputs)
        return torch.stack(outputs)

    def _plan(
        self, x: Tensor, integers: Integers, states: dict[str, StateRange], slope: float
    ) -> tuple[Plan, list[Tensor]]:
        """What the fused engine's kernels depend on, and the tables that they are given."""
        p = integers.params
        given = {"bias": integers.bias, "threshold": p.threshold, "decay": p.decay}
        tables = {name: table for name, table in given.items() if table is not None}
        fan_in_shift, recurrent_shift, _ = self.shifts.tolist()
        plan = Plan(
            self.neuron, replace(p, threshold=None, decay=None), tuple(states.items()), (fan_in_shift, recurrent_shift),
            self.recurrent is not None, tuple(tables), x.shape[2], self.config.size, slope, x.dtype == torch.float64,
            whole_codes=self.config.weights != "float",
        )  # fmt: skip
        return plan, list(tables.values())
