"""Layers on which the fused engines are compared with torch, and the comparison."""

from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.layers import a_layer, replace
from support.neurons import KINDS, neuron_options
from support.torch_networks import random_network

READOUT = a_layer("readout", 3, neuron="li")


def layer_of(seed: int, channels: int, maximum: int, **options: Any) -> tuple[SpikingLayer, SpikingNetwork]:
    """A layer with those options and every parameter moved, and the network that holds it."""
    layer = a_layer("hidden", **{"size": 9, "gain": 3.0, **options})
    with_readout = (layer,) if layer.neuron.readout else (layer, READOUT)
    if not layer.weights.quantized:
        with_readout = tuple(replace(one, weights="float") for one in with_readout)
    network = random_network(*with_readout, channels=channels, maximum=maximum, seed=seed)
    return network.stack[0], network


def has_a_threshold(layer: SpikingLayer) -> bool:
    """Whether its states leave the threshold room; where not, the layer says no."""
    try:
        layer.integers()
    except BadInput:
        return False
    return True


def input_of(seed: int, shape: tuple[int, int, int], maximum: int, rate: float, dtype: torch.dtype) -> Tensor:
    """Integers up to the maximum, a share `rate` of them not 0."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randint(1, maximum + 1, shape, generator=rng)
    return (values * (torch.rand(shape, generator=rng) < rate)).to(dtype)


def both(layer: SpikingLayer, network: SpikingNetwork, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(fused, torch): the output and the gradient of everything, for a random weighting of the output."""
    network.to(x.dtype)
    weighting = torch.randn(*x.shape[:2], layer.config.size, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    results = []
    for record in (None, {}):  # whoever records gets torch's own reading
        layer.zero_grad()
        given_x = x.clone().requires_grad_()
        out = layer(given_x, network.ops, record)
        (out * weighting).sum().backward()
        named = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        results.append({"output": out.detach(), "x": given_x.grad, **named})
    return results[0], results[1]


def assert_equal(fused: dict[str, Tensor], reference: dict[str, Tensor], exact: bool) -> None:
    assert fused.keys() == reference.keys()
    if exact:
        assert torch.equal(fused["output"], reference["output"])
    least = 1e-10 * max(float(value.abs().max()) for value in reference.values())  # what cancels to 0 is noise
    for name, want in reference.items():
        if want.dtype == torch.float64 and not (name == "output" and exact):
            limit = 1e-5 * float(want.abs().max()) + least
            assert float((fused[name] - want).abs().max()) <= limit, name


COMBINATIONS = [
    *(
        {"neuron": neuron, "recurrent": recurrent, "reset": reset, "timing": timing}
        for neuron, recurrent in (("lif", False), ("lif", True), ("count", False))
        for reset, timing in RESETTING
    ),
    *({"neuron": "li", "pool": pool} for pool in ("last", "max")),
    *({"recurrent": recurrent} | kind for kind in KINDS.values() for recurrent in (False, True)),
    {"neuron": "li", "synapse": "exponential", "pool": "max"},
    {"neuron": "li", "decay": 1.0, "bias": False},
    {"neuron": "count", "adaptation": 0.5, "refractory": 1, "synapse": "exponential"},
    *({"neuron": "step", "spikes": spikes} for spikes in (1, 3)),
]


TABLES = [name for name, table in STATE_QUANTIZERS.items() if table is not None]
KEPT = [(name, bits) for name in STATE_QUANTIZERS for bits in (1, 2, 4, 8) if bits > 1 or name in TABLES]
KEEPING: dict[str, dict[str, Any]] = {
    "delayed": {"recurrent": True},
    "several": {"recurrent": True, "spikes": 2},
    "li": {"neuron": "li"},
    "immediate": {"recurrent": True, "timing": "immediate", "threshold": 0.3, "decay_per": "neuron"},
    "max": {"neuron": "li", "pool": "max"},
    "count": {"neuron": "count", "reset": "zero"},
    "snntorch": {"timing": "snntorch", "recurrent": True},
    "remembering": {
        "adaptation": 0.5, "refractory": 1, "synapse": "exponential", "recurrent": True, "state_range": 8.0,
        "decay_per": "neuron",
    },
    "no-leak": {"decay": 1.0, "reset": "zero-before"},
}  # fmt: skip


TOO_FEW = "shared", 2  # end at 1: nothing but a threshold of 0 lies below, which cannot be subtracted


def keeping_of(state_quantizer: str, states: int, keeping: str) -> dict[str, Any]:
    """The options of a layer that keeps its states so."""
    options = {"state_quantizer": state_quantizer, "states": states} | KEEPING[keeping]
    if (state_quantizer, states) == TOO_FEW and keeping in ("delayed", "remembering"):
        options["reset"] = "zero"
    return options


def may_keep(state_quantizer: str, states: int, keeping: str) -> bool:
    """Whether a configuration may ask for it."""
    if (state_quantizer, states) == TOO_FEW and keeping in ("several", "snntorch"):
        return False
    if keeping == "several":
        return state_quantizer not in TABLES
    if keeping == "remembering":
        return states > 1
    return keeping != "immediate" or states > 1 or state_quantizer in AFTER_RESET


@st.composite
def any_options(draw: st.DrawFn) -> dict[str, Any]:
    """The options of a layer, of all that a configuration may ask for."""
    neuron = draw(st.sampled_from(list(NEURONS)))
    state_quantizers = list(STATE_QUANTIZERS) if neuron != "alpha" else ["uniform"]
    weights, states = draw(st.sampled_from(list(WEIGHT_QUANTIZERS))), draw(st.sampled_from(state_quantizers))
    tabled = states in TABLES
    bits = draw(st.sampled_from([*(range(1, 9) if tabled else range(2, 17)), "float"]))
    options = {
        "neuron": neuron,
        "recurrent": not (NEURONS[neuron].readout or NEURONS[neuron].stateless) and draw(st.booleans()),
        "pool": draw(st.sampled_from(["last", "max"])) if neuron == "li" else "last",
        "weight_quantizer": weights,
        "weights": draw(st.sampled_from([*WEIGHT_QUANTIZERS[weights][1], "float"])),
        "state_quantizer": states,
        "states": bits,
        "state_gradient": draw(st.sampled_from(["clip", "identity"])) if tabled and states != "dq" else "clip",
        "scale": draw(st.sampled_from(["layer", "row"])),
        "threshold_per": "auto" if tabled else draw(st.sampled_from(["auto", "layer"])),
        "bias": draw(st.booleans()),
        "decay_bits": draw(st.sampled_from([1, 3, 12])),
        "decay_per": draw(st.sampled_from(["neuron", "layer"])),
        "standardize": weights != "maqd" and draw(st.booleans()),
        "current_bits": draw(st.none() | st.integers(2, 16)),
        "adaptation_bits": draw(st.none() | st.integers(2, 16)),
        **draw(neuron_options(neuron, states, bits)),
    }
    options["norm"] = draw(st.sampled_from(["none", "psp"] if NEURONS[neuron].readout or tabled else NORMS))
    return options


def is_exact(layer: SpikingLayer) -> bool:
    """Whether it adds integers: sums of reals in another order may fall on the other side of a threshold.

    Nor is a threshold of 0 asked for, as there is where the grid has no code for another: its surrogate is 10^-6 wide.
    """
    threshold = layer.integers().params.threshold
    fires = threshold is None or bool((threshold > 0).all())
    return fires and layer.config.weights.quantized and layer.config.states.quantized
