"""Spectral pruning: what the neurons that are kept stand for, where nothing is lost, and that what is left runs."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.export.build import Build
from quantal.qat.data.registry import load
from quantal.qat.engine import cpu
from quantal.qat.methods import pruning
from quantal.qat.methods.pruning import Cut
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import Run
from support.commands import NETWORK, contents, refused, succeed
from support.layers import a_layer, replace
from support.messages import one_line
from support.networks import input_for
from support.neurons import KINDS
from support.torch_networks import random_network, small_config

FLOAT: dict[str, Any] = {"weights": "float", "states": "float"}
PRECISIONS: dict[str, dict[str, Any]] = {
    "full precision": FLOAT,
    "4 and 8 bits": {},
    "learned bits": {"weights": 3, "weight_quantizer": "dq", "states": 6},
    "a table": {"states": 4, "state_quantizer": "aligned", "threshold_per": "auto"},
    "a norm": {"norm": "layer-batch"},
    "a norm of spikes": {"norm": "psp"},
    "a norm of spikes, in full precision": FLOAT | {"norm": "psp"},
    "three spikes": {"spikes": 3},
}
OPTIONS = PRECISIONS | {
    f"{name}, {bits}": k | p
    for name, k in KINDS.items()
    for bits, p in (("float", FLOAT | {"state_range": 2.0}), ("8", {}))
}


@pytest.fixture(autouse=True)
def _in_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is trained, torch's own reading of the step: compiling the engine costs more than it gives."""
    if "here" not in request.fixturenames:
        monkeypatch.setattr(cpu, "available", lambda: False)


def drawn_moment(n: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(Σ, M) of spikes that are driven by `rank` sources and noise, and a metric of random weights; (n, n), float64."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    spikes = (normal(500, rank) @ normal(rank, n) + 0.5 * normal(500, n) > 0.5).double()
    weights = normal(n + 3, n) / math.sqrt(n)
    return spikes.t() @ spikes / len(spikes), torch.eye(n, dtype=torch.float64) + weights.t() @ weights


def closed_form(sigma: Tensor, kept: Tensor, tau: float) -> Tensor:
    """R_J = Σ − Σ_{:,J}(Σ_JJ + τ)⁻¹Σ_{J,:}."""
    inverse = torch.linalg.inv(sigma[kept][:, kept] + tau * torch.eye(len(kept), dtype=sigma.dtype))
    return sigma - sigma[:, kept] @ inverse @ sigma[kept]


def lively(options: dict[str, Any], silent: bool = False) -> tuple[SpikingNetwork, np.ndarray]:
    """A feed-forward layer of 8, a recurrent one of 6 and a readout, and inputs on which all of it moves.

    options: of the two hidden layers; silent: each of these has two neurons that never fire.
    """
    own = FLOAT if options.get("weights") == "float" else {}
    own = own | ({"norm": "psp"} if options.get("norm") == "psp" else {})
    first, second = (a_layer(name, size, **{"gain": 4.0} | options) for name, size in (("first", 8), ("second", 6)))
    layers = first, replace(second, recurrent=True), a_layer("out", 4, neuron="li", state_range=16.0, **own)
    for seed in range(20):
        network = random_network(*layers, channels=5, maximum=1, seed=seed)
        for layer in network.stack[:-1] if silent else ():
            with torch.no_grad():
                for weights in layer.matrices:
                    weights[[1, 4]] = 0.0
                layer.bias[[1, 4]] = 0.0 if layer.config.neuron.kind == "alpha" else -50.0
        x = input_for(network, 8, 9, seed)
        if all(float(values.min()) < float(values.max()) for values in trace(network, x).values()):
            return network, x
    raise AssertionError("in none of these networks does every record move")


def like(network: SpikingNetwork, sizes: dict[str, int]) -> SpikingNetwork:
    """A new network of other sizes."""
    layers = tuple(replace(layer, size=sizes.get(layer.name, layer.size)) for layer in network.config.layers)
    return SpikingNetwork(replace(network.config, layers=layers), network.channels, network.maximum)


def pruned(network: SpikingNetwork, kept: dict[str, int], x: np.ndarray) -> tuple[SpikingNetwork, dict[str, Cut]]:
    """What is left of the network, its moments those on the inputs x."""
    moments = pruning.second_moments(network, [torch.from_numpy(x).double()])
    cuts = pruning.cut_all(network, moments, kept)
    smaller = like(network, kept)
    pruning.rewrite(network, cuts, smaller)
    return smaller, cuts


def trace(network: SpikingNetwork, x: np.ndarray) -> dict[str, Tensor]:
    """Every state and spike (samples, steps, neurons) of every layer in the hard forward, and the output."""
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        record["output"] = network(torch.from_numpy(x).double(), record)
    return record


def assert_nothing_lost(wide: SpikingNetwork, narrow: SpikingNetwork, cuts: dict[str, Cut], x: np.ndarray) -> None:
    """The kept neurons do what they did: all spikes are equal, and where they are integers all states and outputs."""
    exact = wide.config.layers[0].weights.quantized
    before, after = trace(wide, x), trace(narrow, x)
    assert set(before) == set(after)
    for name, values in before.items():
        layer, _, what = name.partition(".")
        if exact or what == "spike":
            assert torch.equal(values[..., cuts[layer].kept] if layer in cuts else values, after[name]), name


# ---- which are kept, and what they stand for


@pytest.mark.parametrize("tau", [1e-9, 0.02])
@pytest.mark.parametrize("count", [1, 7, 19, 24])
def test_what_the_greedy_choice_leaves_is_the_closed_form(count: int, tau: float) -> None:
    sigma, metric = drawn_moment(24, 6)
    kept, residual = pruning.choose(sigma, metric, count, tau)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == count
    assert (residual - closed_form(sigma, kept, tau)).abs().max() <= 4e-15 * sigma.abs().max()


@pytest.mark.parametrize("seed", range(5))
def test_each_neuron_is_the_best_next_one(seed: int) -> None:
    sigma, metric = drawn_moment(9, 3, seed)
    before: set[int] = set()
    for count in range(1, 10):
        chosen = set(pruning.choose(sigma, metric, count, 1e-3)[0].tolist())

        def left(j: int, before: set[int] = before) -> float:
            return float((metric @ closed_form(sigma, torch.tensor(sorted({*before, j})), 1e-3)).trace())

        assert chosen == {*before, min(set(range(9)) - before, key=left)}
        before = chosen


def test_the_mix_is_that_of_least_squares() -> None:
    sigma, _ = drawn_moment(12, 4)
    kept = torch.tensor([0, 3, 4, 7, 11])
    for tau, of_kept in ((1e-13, 1e-9), (0.05, 1.0)):
        found = pruning.reconstruction(sigma, kept, tau)
        wanted = sigma[:, kept] @ torch.linalg.inv(sigma[kept][:, kept] + tau * torch.eye(5, dtype=sigma.dtype))
        gone = sorted(set(range(12)) - set(kept.tolist()))
        assert (found - wanted)[gone].abs().max() < 1e-12
        assert torch.equal(found[kept], torch.eye(5, dtype=sigma.dtype))
        assert (found - wanted)[kept].abs().max() < of_kept  # for τ → 0, what the formula says of them too


def test_moments_are_those_of_all_spikes_and_steps() -> None:
    network, x = lively(FLOAT)
    record = trace(network, x)
    moments = pruning.second_moments(network, [torch.from_numpy(part).double() for part in (x[:3], x[3:])])
    assert set(moments) == {"first", "second"}
    for name, sigma in moments.items():
        phi = record[f"{name}.spike"].flatten(0, 1)
        assert torch.equal(sigma, phi.t() @ phi / len(phi))


def test_a_neuron_counts_by_what_it_feeds() -> None:
    layers = a_layer("hidden", 6, recurrent=True, **FLOAT), a_layer("out", 2, neuron="li", **FLOAT)
    hidden, readout = random_network(*layers, channels=3, maximum=1, seed=0).stack
    with torch.no_grad():
        for weights, column in ((readout.weight, 4), (hidden.recurrent, 5)):
            weights.zero_()
            weights[:, column] = 1.0
    assert pruning.cut(hidden, readout, torch.eye(6, dtype=torch.float64), 2).kept.tolist() == [4, 5]


def test_a_neuron_counts_by_what_a_norm_of_spikes_makes_of_its_weights() -> None:
    layers = a_layer("hidden", 6, **FLOAT), a_layer("out", 2, neuron="li", norm="psp", **FLOAT)
    hidden, readout = random_network(*layers, channels=3, maximum=1, seed=0).stack
    with torch.no_grad():
        readout.weight.fill_(1.0)
        readout.psp.gain.fill_(0.1)
        readout.psp.gain[torch.tensor([1, 3])] = torch.tensor([9.0, -9.0])
        readout.psp.moment.fill_(1.0)
    assert pruning.cut(hidden, readout, torch.eye(6, dtype=torch.float64), 2).kept.tolist() == [1, 3]


def test_weights_behind_a_norm_of_spikes_are_mixed_as_it_makes_them() -> None:
    network, x = lively(FLOAT | {"norm": "psp"})
    second = network.stack[1]
    with torch.no_grad():
        second.psp.gain[3] = 0.0  # lets nothing through, and cannot be divided by
    sigma, kept = pruning.second_moments(network, [torch.from_numpy(x).double()])["first"], torch.tensor([0, 2, 3, 6])
    cut, smaller = Cut(kept, pruning.reconstruction(sigma, kept, 1e-3), 1.0), like(network, {"first": 4})
    pruning.rewrite(network, {"first": cut}, smaller)
    columns = [layer.weights()[0].double() for layer in (second, smaller.stack[1])]
    assert (columns[1] - columns[0] @ cut.mix).abs().max() <= 1e-6 * columns[0].abs().max()
    assert bool(columns[1].isfinite().all())


# ---- nothing is lost where nothing is needed


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_of_all_neurons_the_same_network_is_left(options: dict[str, Any]) -> None:
    network, x = lively(options)
    same, cuts = pruned(network, {"first": 8, "second": 6}, x)
    for name, tensor in network.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name
    assert_nothing_lost(network, same, cuts, x)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_neurons_that_never_fire_are_not_missed(options: dict[str, Any]) -> None:
    network, x = lively(options, silent=True)
    smaller, cuts = pruned(network, {"first": 6, "second": 4}, x)
    assert [layer.size for layer in smaller.config.layers] == [6, 4, 4]
    assert [len(cut.kept) for cut in cuts.values()] == [6, 4]
    assert_nothing_lost(network, smaller, cuts, x)


@pytest.mark.parametrize(("options", "share"), [(FLOAT, 0.25), ({}, 1.0), (PRECISIONS["a table"], 1.0)])
def test_duplicated_neurons_are_pruned_without_loss(options: dict[str, Any], share: float) -> None:
    network, x = lively(options)
    # Of each neuron of the recurrent layer two, which have `share` of what it fed, and the rest.
    twice, unit = torch.tensor([0, 1, 2, 3, 4, 5, 3, 0, 5, 1, 4, 2]), torch.eye(6, dtype=torch.float64)
    mix = torch.cat([share * unit, (1 - share) * unit[:, twice[6:]]], dim=1)
    wide = like(network, {"second": 12})
    pruning.rewrite(network, {"second": Cut(twice, mix, 1.0)}, wide)
    smaller, cuts = pruned(wide, {"second": 6}, x)
    firing = trace(network, x)["second.spike"].any(dim=0).any(dim=0).nonzero().flatten().tolist()
    assert {*firing} <= {*twice[cuts["second"].kept].tolist()}
    assert len(firing) > 3
    assert cuts["second"].share > 1 - 1e-4
    assert_nothing_lost(wide, smaller, cuts, x)


def test_a_layer_may_be_silent() -> None:
    network, x = lively({})
    for layer in network.stack[:-1]:
        with torch.no_grad():
            layer.bias.fill_(-50.0)
    smaller, cuts = pruned(network, {"first": 3, "second": 2}, x)
    assert_nothing_lost(network, smaller, cuts, x)


# ---- the command


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.toml and its run in full precision, `full`."""
    folder = tmp_path_factory.mktemp("pruning")
    text = NETWORK.replace("size = 12", "size = 40\nweights.gain = 2.0").replace(
        "epochs = 1", "epochs = 6\nrate = 0.005"
    )
    (folder / "net.toml").write_text(text.replace('neuron = "li"', 'neuron = "li"\nstates.range = 16.0'))
    options = ("--network", folder / "net.toml", "--weights", "float", "--states", "float")
    succeed("train", *options, "--out", folder / "full")
    return folder


@pytest.fixture
def here(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a `full` and a net.toml that are free to change."""
    shutil.copytree(learned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accuracy(run: str) -> str:
    """What a command says last of the run in that folder."""
    share = accuracy_of(Run.open(Path(run)), load("digits", None).test, Progress(disable=True))
    return f"test accuracy {100 * share:.2f} %"


def test_half_the_neurons_trained_again_quantized_and_exported_agree_everywhere(here: Path) -> None:
    said = succeed("prune", "full", "--keep", 0.5, "--out", "pruned").out
    assert re.match(r"hidden: 20 of 40 neurons, \d\d\.\d % of the spikes' power\n", said)
    assert said.splitlines()[-1] == accuracy("pruned")
    network = ("--network", "pruned/network.toml", "--weights", 4, "--states", 4, "--epochs", 3)
    said = succeed("train", "--from", "pruned", *network, "--out", "run").out
    assert said.splitlines()[-1] == accuracy("run")
    succeed("export", "run", "--out", "build")
    assert [layer.size for layer in Build.open(Path("build")).network.layers] == [20, 10]
    executors = ("--on", "interpreter", "--on", "simulator", "--on", "c-host")
    for against in ((), ("--run", "run", "--samples", 100)):
        rows = json.loads(succeed("verify", "build", *executors, *against, "--json").out)
        assert [(row["mismatches"], row["values"] > 0) for row in rows] == [(0, True)] * 3


def test_a_pruned_run_is_a_run_without_epochs(here: Path) -> None:
    succeed("train", "--network", "net.toml", "--from", "full", "--epochs", 1, "--out", "four")
    before = contents(Path("four"))
    for out in ("pruned", "again"):
        succeed("prune", "four", "--keep", 30, "--layer", "hidden", "--out", out)
    assert contents(Path("again")) == contents(Path("pruned"))
    assert contents(Path("four")) == before
    assert set(contents(Path("pruned"))) == set(before)
    assert Path("pruned/metrics.jsonl").read_text() == ""
    old, new = Run.open(Path("four")), Run.open(Path("pruned"))
    hidden, readout = old.config.layers
    assert new.config == replace(old.config, layers=(replace(hidden, size=30), readout))
    assert new.epochs_done == 0
    assert np.array_equal(new.samples().x, old.samples().x)
    succeed("train", "--resume", "--out", "pruned")
    assert len(Path("pruned/metrics.jsonl").read_text().splitlines()) == 1


def test_what_stands_for_the_others_is_what_counts(here: Path) -> None:
    """The logits' squared error is 0.21 to 0.31 of what it is where the others are left out, with seeds 0 to 19."""
    full, data = Run.open(Path("full")), load("digits", None)
    x = full.tensors(data.train, torch.float32)[0]
    cuts = pruning.cut_all(full.network, pruning.second_moments(full.network, [x]), {"hidden": 8})
    kept, errors = cuts["hidden"].kept, {}
    test, _ = full.tensors(data.test, torch.float32)
    left_out = Cut(kept, torch.eye(40, dtype=torch.float64)[:, kept], 0.0)
    for name, cut in (("rewritten", cuts["hidden"]), ("left out", left_out)):
        smaller = like(full.network, {"hidden": 8})
        pruning.rewrite(full.network, {"hidden": cut}, smaller)
        errors[name] = float((smaller.logits(test) - full.network.logits(test)).detach().square().mean())
    assert errors["rewritten"] < 0.7 * errors["left out"]


def test_the_teacher_comes_along(here: Path) -> None:
    text = Path("net.toml").read_text() + "teacher_share = 0.7\n"
    Path("taught.toml").write_text(text)
    succeed("train", "--network", "taught.toml", "--teacher", "full", "--epochs", 0, "--out", "taught")
    succeed("prune", "taught", "--keep", 0.25, "--out", "pruned")
    assert contents(Path("pruned/teacher")) == contents(Path("taught/teacher"))
    assert Run.open(Path("pruned")).config.training.teacher_share == 0.7


def test_a_share_is_of_each_layer_and_leaves_one_neuron() -> None:
    network, _ = lively({})
    assert pruning.sizes(network.config, 0.5, ()) == {"first": 4, "second": 3}
    assert pruning.sizes(network.config, 0.01, ("second",)) == {"second": 1}
    assert pruning.sizes(network.config, 1.0, ()) == {"first": 8, "second": 6}
    assert pruning.sizes(network.config, 1, ()) == {"first": 1, "second": 1}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prune full --out new", "Missing option '--keep'"),
        *(
            (f"prune full --keep {keep} --out new", "'--keep'")
            for keep in ("0", "-3", "0.0", "1.5", "half", ".", "nan")
        ),
        ("prune full --keep 41 --out new", "--keep: layer hidden has 40 neurons, not 41"),
        ("prune full --keep 5 --layer readout --out new", "--layer: readout: the readout has a neuron for each class"),
        (
            "prune full --keep 5 --layer other --out new",
            "--layer: other: not a layer of the run, expected one of hidden",
        ),
        ("prune full --keep 5 --out full", "full: already exists"),
        ("prune nothing --keep 5 --out new", "nothing: no such run folder"),
    ],
)
def test_what_cannot_be_pruned_is_refused(here: Path, command: str, words: str) -> None:
    refused(here, command, words)


def test_a_readout_alone_and_standardized_rows_are_refused() -> None:
    alone = small_config(a_layer("out", 4, neuron="li"))
    with pytest.raises(BadInput) as error:
        pruning.sizes(alone, 0.5, ())
    one_line(error, "--layer: out: the readout")
    readout = a_layer("out", 4, neuron="li")
    with pytest.raises(BadInput) as error:
        pruning.sizes(small_config(a_layer("hidden", 4, weight_quantizer="maqd"), readout), 0.5, ())
    one_line(error, "layer hidden: weights: maqd")
    for precision in ({}, FLOAT):
        rows = small_config(a_layer("hidden", 4, standardize=True, **precision), replace(readout, **precision))
        with pytest.raises(BadInput) as error:
            pruning.sizes(rows, 0.5, ())
        one_line(error, "layer hidden: standardize")
    full = small_config(a_layer("hidden", 4, weight_quantizer="maqd", **FLOAT), replace(readout, **FLOAT))
    assert pruning.sizes(full, 0.5, ()) == {"hidden": 2}


@pytest.mark.parametrize("options", [{"delays": (0, 2)}, {"inputs": ("input",)}, {"recurrent": "diagonal"}])
def test_only_chains_are_pruned(options: dict[str, Any]) -> None:
    config = small_config(a_layer("hidden", 4, **options), a_layer("readout", 3, neuron="li"))
    with pytest.raises(BadInput) as error:
        pruning.sizes(config, 0.5, ())
    one_line(error, f"layer hidden: {next(iter(options))}", "chains")
