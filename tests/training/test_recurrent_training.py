"""What recurrent and adaptive networks need to learn long sequences, and that each of it is off unless asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.surrogates import SURROGATES, Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.parts.layers import Dense, Layer
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.neurons import Lif
from quantal.qat.config.parts.training import Bptt
from quantal.qat.config.rules import refuse as check
from quantal.qat.data.common import Dataset, Split
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.epochs import train_until
from quantal.qat.training.run import Run
from quantal.qat.training.start import new_run
from support.engines import assert_equal, both, input_of, layer_of
from support.layers import a_layer, replace
from support.messages import one_line
from support.torch_networks import small_config

HIDDEN = a_layer("hidden", 9, recurrent=True, decay_per="neuron", decay_bits=10, adaptation=0.2, adaptation_decay=0.9)
READOUT = a_layer("readout", 2, neuron="li")


def network_with(**changes: Any) -> SpikingNetwork:
    """HIDDEN with these changes, and a readout."""
    return SpikingNetwork(small_config(replace(HIDDEN, **changes), READOUT), 4, 1)


def trained(folder: Path, **changes: Any) -> tuple[SpikingNetwork, SpikingNetwork]:
    """(the network at first, and after two epochs) with these changes to [training]."""
    config = Config(
        task=Task(name="npz"),
        encoder=Direct(steps=6),
        layers=(HIDDEN, READOUT),
        training=Bptt(epochs=2, rate=0.02, **changes),
    )
    rng = np.random.default_rng(1)
    split = Split(rng.integers(0, 2, (80, 6, 4)), np.arange(80) % 2)
    data = Dataset(split, split, classes=2, maximum=1)
    run = new_run(folder, config, data)
    train_until(run, data, 2, Progress(disable=True))
    return SpikingNetwork(config, 4, 1), run.network


# ---- damping


@pytest.mark.parametrize("name", SURROGATES)
def test_damping_multiplies_what_a_spike_passes_on(name: str) -> None:
    level, threshold = torch.linspace(-60, 160, 45, requires_grad=True), torch.tensor(40.0)
    plain, damped = (
        torch.autograd.grad(TorchOps(Surrogate(name, 2.0, damping)).gt(level, threshold).sum(), level)[0]
        for damping in (1.0, 0.25)  # a power of two, so that the product is exact
    )
    assert plain.abs().max() > 0
    assert torch.equal(damped, 0.25 * plain)


def test_damping_is_the_same_in_the_fused_engine() -> None:
    layer, network = layer_of(3, 6, 3, recurrent=True, threshold=0.4)
    results = {}
    for damping in (1.0, 0.3):
        network.ops = TorchOps(Surrogate("fast-sigmoid", 3.0, damping))
        results[damping], reference = both(layer, network, input_of(2, (12, 19, 6), 3, 0.4, torch.float64))
        assert_equal(results[damping], reference, exact=True)
    assert torch.equal(results[1.0]["output"], results[0.3]["output"])
    assert not torch.equal(results[1.0]["recurrent"], results[0.3]["recurrent"])


def test_the_configuration_chooses_the_damping() -> None:
    config = small_config(HIDDEN, READOUT)
    chosen = replace(config, training=replace(config.training, damping=0.3))
    assert SpikingNetwork(config, 4, 1).ops.surrogate.damping == 1
    assert SpikingNetwork(chosen, 4, 1).ops.surrogate.damping == 0.3


# ---- decay_rate


def test_decays_learn_at_their_share_of_the_rate(tmp_path: Path) -> None:
    """A tenth of the rate moves them 0.09 to 0.12 times as far, with seeds 0 to 19."""
    moved = {}
    for share in (0.0, 0.1, 1.0):
        before, after = trained(tmp_path / str(share), decay_rate=share)
        started = dict(before.named_parameters())
        moved[share] = {name: float((p - started[name]).detach().abs().max()) for name, p in after.named_parameters()}
    decays = {name for name in moved[1.0] if name.endswith("decay")}
    assert len(decays) == 3
    for name, least, most in ((name, *(moved[share][name] for share in (0.1, 1.0))) for name in decays):
        assert moved[0.0][name] == 0 < least < most, name
    assert min(moved[0.0][f"layers.{k}.weight"] for k in (0, 1)) > 0


def test_a_whole_share_is_one_optimizer_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "own")

    def plain(run: Run) -> None:
        learned = [p for p in run.network.parameters() if p.requires_grad]
        run.optimizer = torch.optim.Adam([{"params": learned, "share": 1.0}], fused=True)

    monkeypatch.setattr(Run, "begin_optimizer", plain)
    trained(tmp_path / "plain")
    own, other = ((tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("own", "plain"))
    assert own == other


# ---- clip


def test_a_gradient_is_shortened_to_the_norm_and_a_shorter_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.Adam.step

    def noted(optimizer: torch.optim.Adam) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))))
        step(optimizer)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    results = {}
    for clip in (0.0, 1e6, 1e-3):
        norms.clear()
        trained(tmp_path / str(clip), clip=clip)
        results[clip] = (list(norms), (tmp_path / str(clip) / "checkpoint.safetensors").read_bytes())
    assert min(results[0.0][0]) > 1e-3
    assert results[0.0] == results[1e6]
    assert results[1e-3][0] == pytest.approx([1e-3] * 4)  # two batches in each of two epochs


# ---- what neurons begin with


def test_adaptation_spreads_evenly_in_the_logarithm_of_its_time_constants() -> None:
    plain, wide = (network_with(adaptation_spread=spread).stack[0] for spread in (1.0, 4.0))
    assert torch.equal(plain.decays["adaptation_decay"], torch.full((9,), 0.9))
    constants = 1 / (1 - wide.decays["adaptation_decay"].detach().double())
    np.testing.assert_allclose(constants, 10 * 4.0 ** np.linspace(-1, 1, 9), rtol=1e-5)
    assert torch.equal(plain.decays["decay"], wide.decays["decay"])


def test_a_spread_beyond_what_a_decay_can_be_stays_a_decay() -> None:
    for decay, most in ((0.0, 0.9), (1.0, 1023 / 1024)):
        decays = network_with(adaptation_decay=decay, adaptation_spread=10.0).stack[0].decays
        reached = decays["adaptation_decay"].detach()
        assert float(reached.min()) >= 0
        assert float(reached.max()) == pytest.approx(most)


# ---- what is refused


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (replace(HIDDEN, decay_per="layer", adaptation_spread=2.0), ["layer[0]: neuron: adaptation: spread", "neuron"]),
        (
            Dense(name="hidden", size=4, neuron=Lif(decay=1.0, decay_per="neuron")),
            ["layer[0]: neuron: decay_per", "no effect"],
        ),
    ],
)
def test_what_has_no_effect_is_refused(layer: Layer, words: list[str]) -> None:
    config = small_config(HIDDEN, READOUT)
    with pytest.raises(BadInput) as error:
        check(replace(config, layers=(layer, READOUT)), "net")
    one_line(error, *words)
