"""Membrane, current and adaptation each have a width of their own: trained, lowered, exported and run alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantal.export.ir import interpret
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork
from support.commands import succeed
from support.engines import assert_equal as assert_same
from support.engines import both, input_of, layer_of
from support.equality import assert_equal, assert_plain
from support.layers import a_layer
from support.torch_networks import random_input, random_network

WIDTHS = [  # of membrane, current and adaptation
    ({"states": 4}, 8, 12),
    ({"states": 12}, 5, 3),
    ({"states": 1, "state_quantizer": "squat"}, 2, 16),
    ({"states": 3, "state_quantizer": "aligned"}, 9, 6),
    ({"states": 6, "state_quantizer": "shared"}, 10, 4),
]


def network_of(seed: int, **options: Any) -> SpikingNetwork:
    """A recurrent layer with a synapse and an adaptation, a readout that integrates a current."""
    own = {"synapse": "exponential", "adaptation": 0.5, "gain": 3.0} | options
    readout = {name: value for name, value in options.items() if name not in ("adaptation_bits", "norm")}
    return random_network(
        a_layer("hidden", 5, recurrent=True, **own),
        a_layer("readout", 3, neuron="li", synapse="exponential", **readout),
        channels=4, maximum=3, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(("membrane", "current", "adaptation"), WIDTHS)
def test_each_state_is_as_wide_as_it_is_said_to_be(membrane: dict[str, Any], current: int, adaptation: int) -> None:
    reached = {"i": 0, "a": 0}
    for seed in range(4):
        network = network_of(seed, **membrane, current_bits=current, adaptation_bits=adaptation)
        x = random_input(4, 40, 4, 3, seed)
        lowered = assert_equal(network, x)
        trace = interpret.run(lowered, x)
        for name, bits in (("i", current), ("a", adaptation)):
            kept = lowered.layers[0].state(name)
            assert -(2 ** (bits - 1)) <= kept.lo <= kept.hi < 2 ** (bits - 1)
            reached[name] = max(reached[name], np.ptp(trace[f"hidden.{name}"]))
    narrower = {"i": current, "a": adaptation}
    assert all(reached[name] > 2 ** (min(bits, 8) - 3) for name, bits in narrower.items()), reached


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 16), st.integers(2, 16), st.integers(2, 16), st.sampled_from(["none", "batch"]), st.integers(0, 999)
)
def test_any_widths_are_those_of_the_equations(m: int, current: int, adaptation: int, norm: str, seed: int) -> None:
    network = network_of(seed, states=m, current_bits=current, adaptation_bits=adaptation, norm=norm, state_range=4.0)
    assert_plain(network, random_input(3, 12, 4, 3, seed))


@pytest.mark.parametrize(("membrane", "current", "adaptation"), WIDTHS[:3])
def test_the_fused_engine_keeps_each_in_its_own(membrane: dict[str, Any], current: int, adaptation: int) -> None:
    options = {"synapse": "exponential", "adaptation": 0.3, "recurrent": True}
    layer, network = layer_of(3, 6, 1, **options, **membrane, current_bits=current, adaptation_bits=adaptation)
    fused, reference = both(layer, network, input_of(2, (20, 7, 6), 1, 0.4, torch.float64))
    assert float(fused["output"].abs().sum()) > 0
    assert_same(fused, reference, exact=True)


def test_more_bits_tell_more_currents_apart() -> None:
    """Few bits for a membrane need not mean few for what it sums up."""
    steps = []
    for bits in (None, 6, 10, 14):
        layer = network_of(1, states=4, current_bits=bits, threshold=1.0).stack[0]
        unit = float(layer.unit_start.mean())
        steps.append(unit * 2 ** layer.integers().params.current_grid.shift)
    coarse, *finer = steps
    for step, bits in zip(finer, (6, 10, 14), strict=True):
        assert coarse / step == pytest.approx(2 ** (bits - 4), rel=0.5)


def test_a_width_that_is_not_given_is_the_membranes() -> None:
    one, other = (network_of(1, states=6, current_bits=bits, adaptation_bits=bits) for bits in (None, 6))
    assert lower(one, "n").network.layers[0].states == lower(other, "n").network.layers[0].states


NETWORK = """
[task]
name = "digits"
[encoder]
steps = 4
[[layer]]
name = "hidden"
size = 16
neuron = { synapse = 0.5, adaptation = 0.3 }
states = { membrane = 4, current = 8, adaptation = 11 }
weights.gain = 3.0
[[layer]]
name = "readout"
size = 10
neuron = { kind = "li", synapse = 0.5 }
states = { membrane = 12, current = 6, range = 16 }
[training]
epochs = 1
"""


def test_a_run_goes_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.toml").write_text(NETWORK)
    succeed("train", "--network", "net.toml", "--out", "run")
    succeed("export", "run", "--out", "build")
    succeed("verify", "build", "--run", "run", "--on", "interpreter", "--on", "c-host")
    header = Path("build/digits.h").read_text()
    for name, kind in (("hidden_u", "int8_t"), ("hidden_i", "int8_t"), ("hidden_a", "int16_t")):
        assert f"{kind} {name}[16]" in header
