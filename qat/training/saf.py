"""Online training: spike accumulation forwarding, SAF (arXiv 2310.02772), in memory that does not grow with time.

The membrane of a neuron that is reset by subtraction is a sum over accumulations, its own spikes' included. With
â[t] = λâ[t−1] + s[t] and Λ[t] = λΛ[t−1] + 1, each layer with its own λ, at step t

    U[t] = W â_in[t] + V â[t−1] + b Λ[t] − θ r â[t−1],   r = 1 of a delayed reset, λ of one at once,

so that s[t] = [U[t] > θ] tells how weights, bias and threshold bear on it without the past. The forward is not computed
so: rounded, a leak of a sum is not the sum of leaks. It is the neuron's own step, which is what is deployed, and the
accumulations serve the gradient alone, as if no membrane had been rounded or saturated before. With the slope
s'[t] = ∂s/∂U of that step, from the readout down,

    δ = ∂L/∂s ⊙ s',   ∂W = δᵀâ_in,   ∂V = δᵀâ[t−1],   ∂b = ΣδΛ,   ∂θ = −Σδ(1 + r â[t−1]),   ∂L/∂s_in = δW.

SAF-E does this at every step for a loss at every step, and is OTTT_O (online training through time, arXiv 2210.04195):
what it adds up over the steps is one gradient, for integers stay what they are in the middle of a sequence. SAF-F does
it once, for the loss of the last step: the gradient of spike representation, in rates â/Λ, times θ for every layer of
neurons that it passes. θ's is ours, by the same identity. Decays have none: they stay what they are at first.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.arithmetic.wiring import fan_in, layer_step
from quantal.qat.network.integers import Integers
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork


class OnlineLayer:
    """A layer while a batch passes: its state, its accumulations, and what has come of its integers' gradients.

    spikes_in, â_in[t] (batch, inputs); spikes_before, â[t−1] (batch, size); ones, Λ[t] (1,): the accumulations.
    """

    def __init__(self, layer: SpikingLayer, ops: TorchOps, batch: int, dtype: torch.dtype):
        self.layer, self.ops, self.dtype = layer, ops, dtype
        with torch.no_grad():
            self.integers = self._integers()
        self.wires = layer.wires(self.integers)
        codes, p = self.integers.codes, self.integers.params
        self.leak = codes.new_ones(1) if p.decay is None else p.decay * 0.5**p.decay_bits
        size, inputs = codes.shape
        self.spikes_in, self.spikes_before = codes.new_zeros(batch, inputs), codes.new_zeros(batch, size)
        self.ones = codes.new_zeros(1)
        self.output: Tensor = codes.new_zeros(batch, size)
        self.slope = self.output
        self.state: dict[str, Tensor] = {
            name: codes.new_full((batch, size), state.init) for name, state in layer.states(p).items()
        }
        self.grads = {name: torch.zeros_like(value) for name, value in _graded(self.integers).items()}

    def _integers(self) -> Integers:
        return self.layer.integers().mapped(
            lambda codes: codes.to(self.dtype), lambda _, table: table.to(self.dtype), lambda x: x.to(self.dtype)
        )

    @torch.no_grad()
    def step(self, spikes: Tensor, graded: bool) -> Tensor:
        """What it sends (batch, size) for spikes (batch, inputs); `graded`, also the slope of that by its membrane."""
        current, wires = fan_in(self.ops, self.wires, spikes @ self.integers.codes.t())
        for accumulated, more in ((self.spikes_in, spikes), (self.spikes_before, self.output), (self.ones, 1.0)):
            accumulated.mul_(self.leak).add_(more)
        with torch.set_grad_enabled(graded):
            current.requires_grad_(graded)
            output, state = layer_step(self.ops, wires, current, self.state)
        if graded:  # no neuron's output depends on another's current: this is the diagonal, which is all there is
            (self.slope,) = torch.autograd.grad(output, current, output.new_ones(1).expand_as(output))
        self.output, self.state = output.detach(), {name: value.detach() for name, value in state.items()}
        return self.output

    @torch.no_grad()
    def learn(self, grad: Tensor) -> Tensor:
        """Adds to the gradients of its integers, for that of the output (batch, size); returns δ (batch, size)."""
        grads = self.grads
        delta: Tensor = grad * self.slope
        shifts = self.wires.shifts
        grads["codes"].addmm_(delta.t(), self.spikes_in, alpha=1 << shifts.fan_in)
        if "recurrent" in grads:
            grads["recurrent"].addmm_(delta.t(), self.spikes_before, alpha=1 << shifts.recurrent)
        if "bias" in grads:
            grads["bias"].add_(delta.sum(dim=0) * self.ones)
        if "threshold" in grads:
            removed = self.spikes_before * (1.0 if self.layer.config.neuron.timing == "delayed" else self.leak)
            grads["threshold"].sub_((delta * (1 + removed)).sum_to_size(grads["threshold"].shape))
        return delta

    @torch.no_grad()
    def passed(self, delta: Tensor) -> Tensor:
        """The gradient of what came in (batch, inputs), for δ (batch, size)."""
        grad: Tensor = delta @ self.integers.codes * float(1 << self.wires.shifts.fan_in)
        return grad

    def finish(self) -> None:
        """Gives the gradients on to the parameters that the integers stand for.

        The integers are made again, not kept from the start: what their graph holds is larger than they are.
        """
        torch.autograd.backward(list(_graded(self._integers()).values()), list(self.grads.values()))


def _graded(integers: Integers) -> dict[str, Tensor]:
    """Those of the integers that gradients reach."""
    threshold = integers.params.threshold
    named = {"codes": integers.codes, "recurrent": integers.recurrent, "bias": integers.bias, "threshold": threshold}
    return {name: value for name, value in named.items() if value is not None}


def gradients(
    network: SpikingNetwork, x: Tensor, loss: Callable[[Tensor], Tensor], every_step: bool
) -> tuple[Tensor, float]:
    """Adds SAF's gradients to those of the parameters; returns the last logits (batch, classes) and the loss.

    x (batch, steps, inputs) of integers; `loss` makes a number of logits. With `every_step` the loss is its mean over
    the logits of all steps (SAF-E), else that of the last (SAF-F). The network is one that config_check lets through.
    """
    steps, total = x.shape[1], 0.0
    layers = [OnlineLayer(layer, network.ops, len(x), x.dtype) for layer in network.stack]
    for t, now in enumerate(network.entering(x)):
        graded = every_step or t == steps - 1
        with exact_products(x.device):
            output = _forward(layers, now, graded).detach().requires_grad_()
        if graded:
            logits = output * network.logit_unit(steps)
            share = loss(logits) / (steps if every_step else 1)
            share.backward()  # type: ignore[no-untyped-call]
            assert output.grad is not None
            _backward(layers, output.grad)
            total += float(share.detach())
    while layers:  # each is let go when it has passed on what it has
        layers.pop().finish()
    return logits.detach(), total


def _forward(layers: list[OnlineLayer], spikes: Tensor, graded: bool) -> Tensor:
    for layer in layers:
        spikes = layer.step(spikes, graded)
    return spikes


def _backward(layers: list[OnlineLayer], grad: Tensor) -> None:
    for layer in reversed(layers):
        delta = layer.learn(grad)
        if layer is not layers[0]:
            grad = layer.passed(delta)


def hold_decays(network: SpikingNetwork) -> None:
    """Keeps the decays what they are: no gradient of SAF reaches them."""
    for layer in network.stack:
        for decay in layer.decays.values():
            decay.requires_grad_(False)
