"""SAF: its accumulations are the membrane, its gradients OTTT's and spike representation's; what it trains runs."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from quantal.qat.arithmetic import neurons
from quantal.qat.arithmetic.torch_ops import TorchMaths
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import LOGIT_RANGE, SpikingNetwork
from quantal.qat.training import saf
from support.layers import a_layer
from support.torch_networks import random_network

STEPS, BATCH, CHANNELS, MAXIMUM, CLASSES = 7, 5, 6, 3, 4
STATE_RANGE = 64.0  # of the readout
METHODS = ("saf-e", "saf-f")
RESETTING = [
    {"timing": timing, "recurrent": recurrent}
    for timing, recurrent in itertools.product(("delayed", "immediate"), (False, True))
]
resetting = pytest.mark.parametrize("options", RESETTING, ids=lambda options: "-".join(map(str, options.values())))
thresholds = pytest.mark.parametrize("threshold", [0.4, 1.0, 1.7])


def network_of(
    seed: int, options: dict[str, Any], decays: tuple[float, float, float] = (0.5, 0.75, 0.875), **of_all: Any
) -> SpikingNetwork:
    """Two layers of neurons and a readout, in float64; each with a decay of its own, which it keeps."""
    layers = (
        a_layer("first", 9, decay=decays[0], gain=8.0, **options | of_all),
        a_layer("second", 8, decay=decays[1], gain=8.0, **options | of_all),
        a_layer("out", CLASSES, neuron="li", decay=decays[2], **{"state_range": STATE_RANGE} | of_all),
    )
    network = random_network(*layers, channels=CHANNELS, maximum=MAXIMUM, seed=seed).double()
    for layer in network.stack:
        if layer.decay is not None:
            layer.decay.data.fill_(layer.config.neuron.decay)
    saf.hold_decays(network)
    return network


def in_float(seed: int, options: dict[str, Any], threshold: float, *decays: float) -> SpikingNetwork:
    """The same in full precision, every neuron with that threshold."""
    network = network_of(seed, options, *([decays] if decays else []), weights="float", states="float")
    for layer in network.stack[:-1]:
        assert layer.threshold is not None
        layer.threshold.data.fill_(threshold)
    return network


def samples(seed: int, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Inputs (BATCH, steps, CHANNELS) and labels."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, MAXIMUM + 1, (BATCH, steps, CHANNELS), generator=rng).double()
    return x, torch.randint(CLASSES, (BATCH,), generator=rng)


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    """The paper's: .95 cross entropy + .05 squared error."""
    target = functional.one_hot(y, CLASSES).to(logits.dtype)
    return 0.95 * functional.cross_entropy(logits, y) + 0.05 * functional.mse_loss(logits, target)


def taken(network: SpikingNetwork) -> dict[str, Tensor]:
    """The gradients that were left in the parameters, by name."""
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def saf_taken(network: SpikingNetwork, x: Tensor, y: Tensor, every_step: bool) -> dict[str, Tensor]:
    """SAF's gradients."""
    saf.gradients(network, x, lambda logits: loss_of(logits, y), every_step)
    return taken(network)


def assert_same(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """The same parameters have gradients, and they are equal to 1e-12 of the largest."""
    assert ours.keys() == wanted.keys()
    for name, want in wanted.items():
        largest = float(want.abs().max())
        assert largest > 0, name
        assert float((ours[name] - want).abs().max()) <= 1e-12 * largest, name


# ---- the reference: the equations in real numbers, which know neither accumulations nor the integers' units


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, threshold: Tensor, surrogate: Any) -> Tensor:
        ctx.save_for_backward(u, threshold)
        ctx.surrogate = surrogate
        return (u > threshold).double()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        u, threshold = ctx.saved_tensors
        grad = ctx.surrogate.passed(TorchMaths, grad, u - threshold, threshold)
        return grad, -grad.sum(dim=0), None


def lif(layer: SpikingLayer, inputs: list[Tensor], surrogate: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(membranes, outputs) of all steps: u[t] = λ(u[t−1] − θs[t−1]) + …, or λu[t−1] − θs[t−1] + … of a delayed reset.

    Gradients pass a membrane from step to step; they pass neither a reset nor a recurrent spike.
    """
    decay, outputs, membranes = layer.config.neuron.decay, [], []
    u = s = torch.zeros(len(inputs[0]), layer.config.size, dtype=torch.float64)
    for x in inputs:
        removed = 0.0 if layer.threshold is None else layer.threshold * s.detach()
        u = decay * (u - removed) if layer.config.neuron.timing == "immediate" else decay * u - removed
        u = u + x @ layer.weight.t() + layer.bias
        if layer.recurrent is not None:
            u = u + s.detach() @ layer.recurrent.t()
        s = u if layer.threshold is None else _Spike.apply(u, layer.threshold, surrogate)
        membranes.append(u)
        outputs.append(s)
    return membranes, outputs


def real_lif(network: SpikingNetwork, layer: SpikingLayer, inputs: list[Tensor]) -> list[Tensor]:
    """The outputs of `lif`; of the readout, logits."""
    outputs = lif(layer, inputs, network.ops.surrogate)[1]
    return [out * (LOGIT_RANGE / STATE_RANGE) for out in outputs] if layer.threshold is None else outputs


def integer_lif(network: SpikingNetwork, layer: SpikingLayer, inputs: list[Tensor]) -> list[Tensor]:
    """The same of the integer step, rounding and all: the neuron's own, with gradients through its membrane's time."""
    integers = layer.integers()
    fan_in_shift, recurrent_shift, _ = layer.shifts.tolist()
    state: dict[str, Any] = {"u": torch.zeros(len(inputs[0]), layer.config.size, dtype=torch.float64)}
    outputs = [state["u"]]
    for x in inputs:
        back = None if integers.recurrent is None else outputs[-1].detach() @ integers.recurrent.t()
        product = x @ integers.codes.t()
        current = neurons.current(network.ops, product, fan_in_shift, back, recurrent_shift, integers.bias)
        output, state = layer.neuron.step(network.ops, current, state, integers.params)
        outputs.append(output)
    if layer is network.stack[-1]:
        return [output * network.logit_unit(len(inputs)) for output in outputs[1:]]
    return outputs[1:]


def ottt(network: SpikingNetwork, x: Tensor, y: Tensor, steps: list[int], layer_of: Any) -> dict[str, Tensor]:
    """OTTT_O by what it is: of each step's loss, backpropagation through every layer's membranes in time, and to the
    layer below through the spikes of that step alone. Every step unrolls all before it: there are no traces."""
    for t in steps:
        value = list(x[:, : t + 1].unbind(1))
        for layer in network.stack:
            value = layer_of(network, layer, [*(spikes.detach() for spikes in value[:-1]), value[-1]])
        (loss_of(value[-1], y) / len(steps)).backward()
    return taken(network)


# ---- the identities


@resetting
@thresholds
def test_the_accumulations_are_the_membrane(options: dict[str, Any], threshold: float) -> None:
    network = in_float(1, options, threshold)
    x, _ = samples(1)
    value, records = list(x.unbind(1)), []
    for layer in network.stack:
        membranes, value = lif(layer, value, network.ops.surrogate)
        records.append((membranes, value))
    layers = [saf.OnlineLayer(layer, network.ops, BATCH, x.dtype) for layer in network.stack]
    for t in range(STEPS):
        spikes = x[:, t]
        for running, layer, (membranes, outputs) in zip(layers, network.stack, records, strict=True):
            spikes = running.step(spikes, graded=False)
            u = running.spikes_in @ layer.weight.t() + running.ones * layer.bias
            if layer.recurrent is not None:
                u = u + running.spikes_before @ layer.recurrent.t()
            if layer.threshold is not None:
                again = layer.config.neuron.decay if layer.config.neuron.timing == "immediate" else 1.0
                u = u - layer.threshold * again * running.spikes_before
                assert torch.equal(spikes, outputs[t])
                assert torch.equal(spikes, (u > layer.threshold).double())
            assert float((u - membranes[t]).detach().abs().max()) < 1e-9
    for _, outputs in records[:-1]:
        assert 0.05 < float(torch.stack(outputs).detach().mean()) < 0.9


@resetting
@thresholds
def test_saf_e_is_online_training_through_time(options: dict[str, Any], threshold: float) -> None:
    network = in_float(2, options, threshold)
    x, y = samples(2)
    ours = saf_taken(network, x, y, every_step=True)
    assert_same(ours, ottt(network, x, y, list(range(STEPS)), real_lif))
    learned = {"weight", "bias", "threshold", *(["recurrent"] if options["recurrent"] else [])}
    assert {name for name in ours if name.startswith("layers.0.")} == {f"layers.0.{name}" for name in learned}


@resetting
def test_a_membrane_that_does_not_leak_has_the_same_gradients(options: dict[str, Any]) -> None:
    network = in_float(3, options, 1.0, 1.0, 1.0, 1.0)
    x, y = samples(3)
    assert_same(saf_taken(network, x, y, every_step=True), ottt(network, x, y, list(range(STEPS)), real_lif))


class _Rate(torch.autograd.Function):
    """φ of a drive: the rate that the neurons had, with the derivative that their spikes' surrogate has."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, rate: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return rate.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None


@resetting
@thresholds
def test_saf_f_is_spike_representation(options: dict[str, Any], threshold: float) -> None:
    """r_out = φ((W r_in + V r_before + b) / θ), layer on layer, r = â[T] / Λ[T]: no time is in it.

    Every layer of neurons that the gradient passes divides it by θ, which SAF does not.
    """
    decay = 0.75
    network = in_float(4, options, threshold, decay, decay, decay)
    x, y = samples(4)
    ours = saf_taken(network, x, y, every_step=False)

    weights = torch.tensor([decay ** (STEPS - 1 - t) for t in range(STEPS)], dtype=torch.float64)
    total = weights.sum()

    def rate(signal: list[Tensor]) -> Tensor:
        return torch.einsum("t,tbn->bn", weights, torch.stack(signal)).detach() / total

    value = list(x.unbind(1))
    r = rate(value)
    for layer in network.stack:
        membranes, value = lif(layer, value, network.ops.surrogate)
        drive = r @ layer.weight.t() + layer.bias
        if layer.recurrent is not None:
            drive = drive + rate([torch.zeros_like(value[0]), *value[:-1]]) @ layer.recurrent.t()
        if layer.threshold is not None:
            distance = (membranes[-1] - threshold).detach()
            slope = network.ops.surrogate.passed(TorchMaths, torch.ones_like(distance), distance, threshold)
            r = _Rate.apply(drive / threshold, rate(value), slope)
    # the readout's membrane is Λ times its drive
    loss_of(drive * total * (LOGIT_RANGE / STATE_RANGE), y).backward()
    passed = {"layers.0.": threshold**2, "layers.1.": threshold, "layers.2.": 1.0}
    wanted = {name: grad * passed[name[:9]] for name, grad in taken(network).items()}
    assert_same({name: grad for name, grad in ours.items() if not name.endswith("threshold")}, wanted)


@resetting
def test_saf_f_is_the_last_step_of_saf_e(options: dict[str, Any]) -> None:
    network = in_float(5, options, 1.0)
    x, y = samples(5)
    assert_same(saf_taken(network, x, y, every_step=False), ottt(network, x, y, [STEPS - 1], real_lif))


# ---- on integers

QUANTIZED = [
    *({"state_quantizer": quantizer} | options for quantizer in ("uniform", "shared") for options in RESETTING),
    {"weights": 1, "weight_quantizer": "dq", "recurrent": True},
    {"weights": 2, "weight_quantizer": "tquant", "scale": "layer", "threshold_per": "layer"},
    {"weights": 3, "weight_quantizer": "maqd", "bias": False, "decay_bits": 3},
]
quantized = pytest.mark.parametrize("options", QUANTIZED, ids=lambda options: "-".join(map(str, options.values())))


@quantized
@pytest.mark.parametrize("states", [3, 8])
def test_the_forward_is_the_deployed_one(options: dict[str, Any], states: int) -> None:
    network = network_of(6, options, states=states, state_range=4.0)
    x, y = samples(6)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        output = network(x, record)
    layers = [saf.OnlineLayer(layer, network.ops, BATCH, x.dtype) for layer in network.stack]
    for t in range(STEPS):
        spikes = x[:, t]
        for running in layers:
            spikes = running.step(spikes, graded=True)
            for name, state in running.state.items():
                assert torch.equal(state, record[f"{running.layer.config.name}.{name}"][:, t])
            if running.layer.neuron.fires:
                assert torch.equal(spikes, record[f"{running.layer.config.name}.spike"][:, t])
        assert torch.equal(spikes, output[:, t])
    assert float(record["first.spike"].std()) > 0
    logits, loss = saf.gradients(network, x, lambda logits: loss_of(logits, y), every_step=False)
    assert torch.equal(logits, (output[:, -1] * network.logit_unit(STEPS)).detach())
    assert loss == float(loss_of(logits, y))


@quantized
def test_gradients_pass_straight_through_the_integers(options: dict[str, Any]) -> None:
    """Rounded as they are, they are OTTT's, down to scales, where no membrane saturates."""
    network = network_of(7, options, states=16, state_range=64.0)
    x, y = samples(7)
    ours = saf_taken(network, x, y, every_step=True)
    assert_same(ours, ottt(network, x, y, list(range(STEPS)), integer_lif))
    wanted = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert ours.keys() == wanted


def test_a_saturated_neuron_passes_no_gradient() -> None:
    network = network_of(8, {}, states=2, state_range=1.0)
    x, y = samples(8)
    layer = network.stack[0]
    layer.bias.data.fill_(1e4)
    running = saf.OnlineLayer(layer, network.ops, BATCH, x.dtype)
    running.step(x[:, 0], graded=True)
    assert float(running.slope.abs().max()) == 0
    assert float(saf_taken(network, x, y, every_step=True)["layers.0.weight"].abs().max()) == 0


# ---- memory


def peak(network: SpikingNetwork, steps: int, every_step: bool) -> int:
    """The most bytes of tensors at a time, beyond input and parameters."""
    x, y = samples(9, steps)
    saf_taken(network, x, y, every_step)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        saf_taken(network, x, y, every_step)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_time(method: str) -> None:
    network = network_of(9, {"recurrent": True})
    few, many = (peak(network, steps, method == "saf-e") for steps in (3, 12))
    assert few == many > sum(8 * layer.weight.numel() for layer in network.stack)
