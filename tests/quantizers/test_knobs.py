"""No option of a quantizer is without effect, and whatever is learned can be shipped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from quantal.export import network_file
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from support.neurons import KINDS
from support.quantizers import WEIGHTS, learn, tiny
from support.torch_networks import random_input

INPUT = torch.from_numpy(random_input(24, 8, 10, 1, 3)).float()
STATES = [(name, 4 if table is None else 1) for name, table in STATE_QUANTIZERS.items()]
KNOBS = [
    *({"weight_quantizer": name, "weights": bits} for name, bits in WEIGHTS),
    *({"state_quantizer": name, "states": bits + more} for name, bits in STATES for more in (0, 3)),
    *({"state_quantizer": "dq", "states": 3, "forward": forward} for forward in ("hard", "soft")),
    *({"weight_quantizer": "dq", "weights": 3, "forward": forward} for forward in ("hard", "soft")),
    *({"norm": norm} for norm in NORMS[1:]),
    {"norm": "psp", "standardize": True, "weight_quantizer": "dq", "weights": 3},
    {"norm": "layer-batch", "weight_quantizer": "maqd", "weights": 2},
    {"spikes": 3, "state_range": 16.0},
    *({"state_quantizer": "aligned", "states": bits, "timing": "immediate"} for bits in (1, 4)),
    *({"timing": "snntorch"}, {"reset": "zero-before"}),
    *KINDS.values(),
]


@pytest.mark.parametrize("options", KNOBS, ids=lambda options: "-".join(map(str, options.values())))
def test_everything_that_is_learned_moves(options: dict[str, Any]) -> None:
    network = tiny(recurrent=True, readout="count", **options)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    learn(network, INPUT, 8)
    after = dict(network.named_parameters())
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in still if name.startswith("layers.0")} == set()
    assert "layers.1.weight" not in still
    first, quantizer = network.stack[0], options.get("weight_quantizer", "lsq")
    own = {name.rpartition(".")[2] for name in before}
    assert ("decay" in own) == (options.get("decay") != 1)
    assert ("synapse_decay" in own) == ("synapse" in options or options.get("neuron") == "alpha")
    assert ({"adaptation", "adaptation_decay"} <= own) == ("adaptation" in options)
    assert ("reach_gain" in own) == (quantizer not in ("lsq", "maqd"))
    assert ("ranges" in own) == (options.get("state_quantizer") in ("aligned", "dq"))
    assert first.ranges is None or (first.ranges != before["layers.0.ranges"]).all()


TABLED = {"state_quantizer": "squat-threshold", "states": 3}
ALPHA = {**KINDS["alpha"], "synapse_decay": 0.8}
CHANGES = [
    ({"weight_quantizer": "dq", "weights": 3}, {"temperature": 2.0}),
    ({"weight_quantizer": "dq", "weights": 3}, {"forward": "soft"}),
    ({"state_quantizer": "dq", "states": 3}, {"temperature": 0.5}),
    ({"state_quantizer": "dq", "states": 3}, {"forward": "soft"}),
    (TABLED, {"state_gradient": "identity"}),
    ({"state_quantizer": "aligned", "states": 3}, {"state_gradient": "identity"}),
    ({}, {"spikes": 3}),
    ({"readout": "count"}, {"spikes": 2}),
    *(({}, {"norm": norm}) for norm in NORMS[1:]),
    ({}, {"standardize": True}),
    ({}, {"neuron": "step"}),
    *(({}, kind) for kind in ({"decay": 1.0}, {"synapse": "exponential"}, {"adaptation": 0.5}, {"refractory": 1})),
    ({"synapse": "exponential"}, {"synapse_decay": 0.5}),
    ({"adaptation": 0.5}, {"adaptation_decay": 0.5}),
    ({"reset": "zero"}, {"reset": "zero-before"}),
    ({"timing": "immediate", "gain": 9.0, "state_range": 8.0}, {"timing": "snntorch"}),
    (ALPHA | {"neuron": "lif"}, ALPHA),
    (ALPHA, {"synapse_decay": 0.9}),
    *(({"weights": bits}, {"weight_quantizer": name, "weights": bits}) for name, bits in WEIGHTS if name != "lsq"),
    *(({"states": 4}, {"states": 4, "state_quantizer": name}) for name, _ in STATES if name != "uniform"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change"), CHANGES, ids=str)
def test_every_option_changes_what_is_learned(base: dict[str, Any], change: dict[str, Any]) -> None:
    results = [learn(tiny(**options), INPUT, 4).stack[0].weight.detach() for options in (base, base, base | change)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# ---- what is learned can be shipped


def assert_read_back(network: SpikingNetwork) -> None:
    written = network_file.dumps(lower(network, "network"))
    assert network_file.dumps(network_file.loads(written, "here")) == written


GRIDS = [(name, "delayed") for name, make in STATE_QUANTIZERS.items() if make is not None]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("quantizer", "timing"), [*GRIDS, *((name, "immediate") for name, make in AFTER_RESET.items() if make)]
)
def test_every_grid_can_be_read_back_from_one_end_of_its_ranges_to_the_other(
    quantizer: str, timing: str, bits: int
) -> None:
    """Levels nearer than an accumulator unit share a border: of several at the threshold, some are never reached."""
    network = tiny(state_quantizer=quantizer, states=bits, timing=timing)
    assert_read_back(network)
    for end in ("least", "most"):
        for layer in network.stack:
            assert layer.state_quantizer is not None
            if layer.ranges is not None:
                with torch.no_grad():
                    layer.ranges.copy_(torch.tensor(getattr(layer.state_quantizer, end)))
        assert_read_back(network)


@pytest.mark.parametrize("quantizer", ["tquant", "dq"])
def test_a_reach_that_training_drives_below_0_is_brought_back(quantizer: str, tmp_path: Path) -> None:
    """Else the run's own checkpoint would be refused."""
    network = tiny(weight_quantizer=quantizer, weights=2)
    for layer in network.stack:
        layer.quantizer.reach_gain.data.fill_(-0.5)
    network.project()
    network.restore(network.state_dict(), tmp_path)
    assert all(bool((layer.quantizer.reach_gain == 1 / 64).all()) for layer in network.stack)
