"""A layer in training: its forward, of the integers that its parameters stand for at this moment."""

from dataclasses import replace

import torch
from torch import Tensor

from quantal.export.base import names
from quantal.qat.arithmetic import wiring
from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.arithmetic.neurons import Params, StateRange
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.arithmetic.wiring import Shifts, Wires, fan_in, layer_step
from quantal.qat.network import fused
from quantal.qat.network.integers import Integers, integers
from quantal.qat.network.parameters import Parameters


class SpikingLayer(Parameters):
    """One layer of `inputs` → config.size neurons, dense or convolutional, optionally recurrent.

    Input (steps, batch, inputs) → output (steps, batch, size). `truncate`: of [training].
    """

    truncate = 0

    def integers(self, x: Tensor | None = None) -> Integers:
        """The codes and tables of this moment; with x (steps, batch, inputs), a norm takes its moments from it."""
        return integers(self, x)

    def states(self, params: Params) -> dict[str, StateRange]:
        """The neuron's states by name, and in a recurrent layer the spikes of the step before."""
        return wiring.states(self.neuron, params, self.recurrent is not None)

    @property
    def wire_shifts(self) -> Shifts:
        """By how many bits what comes in is shifted into its unit."""
        of_input, recurrent, _ = self.shifts.tolist()
        return Shifts(of_input, recurrent, int(self.added_shift))

    def wires(self, whole: Integers) -> Wires[Tensor]:
        """How torch reads its wiring."""
        back = whole.recurrent
        wires: Wires[Tensor] = Wires(self.neuron, whole.params, self.wire_shifts, whole.bias)
        if back is None:
            return wires
        if self.config.recurrent == "diagonal":
            return replace(wires, diagonal=back.squeeze(1))
        return replace(wires, matrix=lambda spikes: spikes @ back.t())

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
        config.add; where this layer's own name is there, it leaves its own. In training a norm keeps a share of the
        moments of x.
        """
        with exact_products(x.device):
            now = self.integers(x if self.training else None)
            self.keep(now.moments)
            whole = now.mapped(
                lambda codes: codes.to(x.dtype),
                lambda _, table: self.of_neurons(table.to(x.dtype)),
                lambda levels: levels.to(x.dtype),
            )
            currents = {} if currents is None else currents
            return self._run(x, whole, ops, record, {} if carried is None else carried, currents)

    def _run(
        self,
        x: Tensor,
        whole: Integers,
        ops: TorchOps,
        record: dict[str, Tensor] | None,
        carried: dict[str, Tensor],
        currents: dict[str, Tensor],
    ) -> Tensor:
        """The forward of these integers, in the float of x."""
        name, wires = self.config.name, self.wires(whole)
        states = self.states(whole.params)
        for state, kept in states.items():
            carried.setdefault(state, x.new_full((x.shape[1], self.config.size), kept.init))
        codes: Tensor | None = whole.codes
        shared = name in currents
        if self.window is not None or self.added is not None or shared:  # more than a matrix by what it sees
            x, codes = self.products(x, whole.codes), None
        if self.added is not None or shared:
            added = None if self.added is None else lambda: currents[self.config.add]
            x, wires = fan_in(ops, wires, x, added, shared)
        if shared:
            currents[name] = x
            if record is not None:
                record[names.record(names.current(name), "current")] = x
        if record is None:
            made = fused.time_loop(self, x, codes, whole, wires, states, ops.surrogate, self.truncate, carried)
            if made is not None:
                return made
        products = x if codes is None else x @ codes.t()  # for all steps at once
        return self._unrolled(ops, wires, products, record, carried)

    def _unrolled(
        self,
        ops: TorchOps,
        wires: Wires[Tensor],
        products: Tensor,
        record: dict[str, Tensor] | None,
        carried: dict[str, Tensor],
    ) -> Tensor:
        """One step after the other, as the wiring says."""
        state: dict[str, Tensor] = dict(carried)
        outputs, history = [], []
        for t, product in enumerate(products):
            if self.truncate and t % self.truncate == 0:
                state = {name: value.detach() for name, value in state.items()}
            output, state = layer_step(ops, wires, product, state)
            outputs.append(output)
            if record is not None:
                history.append(state)
        carried |= {name: value.detach() for name, value in state.items()}
        if record is not None:
            prefix = self.config.name
            for name in self.states(wires.params):
                record[f"{prefix}.{name}"] = torch.stack([held[name] for held in history])
            if not any(value is output for value in state.values()):
                record[f"{prefix}.{self.neuron.output_name}"] = torch.stack(outputs)
        return torch.stack(outputs)
