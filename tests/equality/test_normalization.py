"""A norm costs nothing on the device: the network in which it stands emits the spikes of that into which it folds."""

import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantal.export import network_file
from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.config.precision import with_precision
from quantal.qat.data.registry import load
from quantal.qat.engine import cpu
from quantal.qat.lower import lower
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.normalization import CURRENT_NORMS, EPSILON, LEAST, NORMS, CurrentNorm, PspNorm
from quantal.qat.training import parallel
from quantal.qat.training.run import Run
from quantal.qat.training.start import new_run
from quantal.qat.training.warm_start import warm_start
from support.commands import NETWORK, quantal, succeed
from support.layers import a_layer
from support.messages import one_line
from support.torch_networks import random_input, random_network, small_config

FOLDS: dict[str, dict[str, Any]] = {
    **{norm: {"norm": norm} for norm in NORMS[1:]},
    "standardized": {"standardize": True, "threshold": 0.3},
    "standardized-psp": {"standardize": True, "norm": "psp"},
    "maqd-batch": {"weight_quantizer": "maqd", "norm": "batch"},
}
IN_FILE = {
    "standardize": "weights.standardize",
    "weight_quantizer": "weights.quantizer",
    "threshold": "neuron.threshold",
}
NUDGE = 2.0**-20  # on a lattice of 2^-12 or coarser, the side to which a half falls, whatever a real number lost


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no compiler: the networks are small and many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cpu, "available", lambda: False)


def real(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()


def rounded(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5 + NUDGE)


def standardized(w: np.ndarray) -> np.ndarray:
    return (w - w.mean(1, keepdims=True)) / np.sqrt(w.shape[1] * w.var(1, keepdims=True) + 1e-4)


def unfolded(layer: SpikingLayer, x: np.ndarray) -> np.ndarray:
    """The spikes (samples, steps, size) of a lif layer on x (samples, steps, inputs), in real numbers, float64.

    The norm stands in it as its equation has it, on real weights and before real thresholds: nothing is folded, and no
    product is an integer. What a state keeps is still rounded as it is in the integer network.
    """
    config, integers = layer.config, layer.integers()
    fan_in_shift, recurrent_shift, state_shift = layer.shifts.tolist()
    scale, limit = real(layer.unit) * 2.0**fan_in_shift, 2 ** (int(config.weights.bits) - 1) - 1
    matrices = [real(matrix) for matrix in layer.matrices]
    if config.weights.standardize or config.weights.quantizer == "maqd":
        matrices = [standardized(matrix) for matrix in matrices]
    columns = np.ones(x.shape[2])
    if layer.psp is not None:
        columns = real(layer.psp.gain) / np.sqrt(real(layer.psp.moment) + 0.01)
    scales = scale, scale * 2.0 ** (recurrent_shift - fan_in_shift)
    weights = [
        s * np.clip(rounded(matrix / s), -limit, limit)
        for matrix, s in zip((matrices[0] * columns, *matrices[1:]), scales, strict=False)
    ]
    gain, mean, deviation = np.ones(config.size), 0.0, 1.0
    if layer.norm is not None:
        gain = real(layer.norm.gain)
        gain = np.sign(gain) * np.maximum(np.abs(gain), LEAST)
        mean, deviation = real(layer.norm.mean), np.sqrt(real(layer.norm.variance) + EPSILON)

    unit = real(layer.unit).squeeze(1) * np.abs(gain) / deviation  # of an accumulator, after the norm
    theta, beta = (real(table) * unit for table in (integers.params.threshold, integers.bias))  # type: ignore[arg-type]
    beta = beta + gain * mean / deviation  # the layer's own: what is left of the rest of the norm is in the integers'
    decay, grid = real(layer.decay), unit * 2.0**state_shift  # type: ignore[arg-type]
    decay = rounded(decay * 2.0**config.neuron.decay_bits) / 2.0**config.neuron.decay_bits
    half = 2 ** (config.states.membrane - 1)

    u = s = np.zeros((len(x), config.size))
    spikes = []
    for step in x.transpose(1, 0, 2):
        z = (step * columns) @ (weights[0] / columns).T
        current = gain * (z - mean) / deviation + beta
        if layer.recurrent is not None:
            current = current + np.abs(gain) / deviation * (s @ weights[1].T)
        u = rounded(u * decay / unit) * unit + current - theta * s
        u = np.clip(rounded(u / grid), -half, half - 1) * grid
        s = (u > theta + unit / 2).astype(float)  # a membrane lies on the lattice of units, and the threshold too
        spikes.append(s)
    return np.stack(spikes, axis=1)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("fold", FOLDS)
def test_the_unfolded_network_emits_the_spikes_of_the_folded_one(fold: str, recurrent: bool) -> None:
    for seed, (scale, states) in enumerate((("row", 8), ("layer", 16)), 1):
        options = FOLDS[fold] | {"scale": scale, "states": states, "weights": 5, "recurrent": recurrent}
        hidden = [a_layer(f"h{k}", size, gain=3.0, **options) for k, size in enumerate((24, 16))]
        network = random_network(*hidden, a_layer("readout", 3, neuron="li"), channels=12, maximum=1, seed=seed)
        x = random_input(6, 200, 12, 1, seed)
        network.begin_norms(torch.from_numpy(x).float())
        trace = interpret.run(lower(network, "network").network, x)
        spikes = x.astype(float)
        for layer in network.stack[:-1]:
            spikes = unfolded(layer, spikes)
            assert np.array_equal(spikes, trace[f"{layer.config.name}.spike"])
            assert 0.02 < spikes.mean() < 0.98
            rates = spikes.mean(axis=(0, 1))
            assert ((rates > 0) & (rates < 1)).mean() > 0.5


def test_a_psp_norm_folds_where_classes_are_compared_and_where_states_have_a_table() -> None:
    table = a_layer("hidden", 9, norm="psp", gain=3.0, state_quantizer="aligned", states=4)
    network = random_network(table, a_layer("readout", 3, neuron="li", norm="psp"), channels=6, maximum=1, seed=3)
    for layer in network.stack:
        assert layer.psp is not None
        scale = layer.unit * 2.0 ** int(layer.shifts[0])
        columns = layer.psp.gain / torch.sqrt(layer.psp.moment + 0.01)
        assert torch.equal(layer.integers().codes, layer.quantizer.codes(layer.weight * columns, scale, 0))


# ---- moments


def test_batch_norm_is_torchs_own() -> None:
    z = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    norm = CurrentNorm(4, "batch").double()
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([1.5, -0.5, 0.3, -2.0]))
    kept = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    rows = z.flatten(0, 1)
    for training in (True, False):
        moments = norm.moments(z) if training else {}
        norm.keep(moments)
        sign, factor, offset = norm.affine(moments or None)
        expected = functional.batch_norm(rows, *kept, norm.gain, training=training, momentum=0.1, eps=EPSILON)
        torch.testing.assert_close(sign * factor * rows + offset * sign.abs(), expected)
        biased = 0.9 + 0.1 * rows.var(0, correction=0)
        torch.testing.assert_close((norm.mean, norm.variance), (kept[0], biased))
        kept = kept[0], biased  # torch keeps the unbiased one


def test_a_layer_batch_norm_has_the_moments_of_all_its_neurons() -> None:
    z = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    norm = CurrentNorm(4, "layer-batch")
    _, factor, offset = norm.affine(norm.moments(z))
    y = factor * z + offset
    assert abs(float(y.detach().mean())) < 1e-6
    torch.testing.assert_close(y.var(correction=0), torch.ones(()), rtol=1e-4, atol=0)
    assert factor.unique().numel() == 1


def test_a_psp_norm_divides_by_the_root_of_the_mean_square_and_nothing_else() -> None:
    norm = PspNorm(3, 2.0)
    with torch.no_grad():
        norm.gain.copy_(torch.tensor([1.0, -2.0, 0.5]))
    x = torch.tensor([[[0.0, 1.0, 2.0]], [[0.0, 0.0, 2.0]], [[0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])  # (steps, batch, 3)
    expected = norm.gain / torch.sqrt(torch.tensor([0.0, 0.5, 2.0]) + 0.01 * 2.0**2)
    torch.testing.assert_close(norm.columns(norm.moments(x)), expected)
    assert (norm.moment == 1).all()  # what is asked of it changes nothing
    norm.keep(norm.moments(x))
    torch.testing.assert_close(norm.moment, 0.9 + 0.1 * torch.tensor([0.0, 0.5, 2.0]))


def moments(network: SpikingNetwork) -> dict[str, Tensor]:
    """The kept ones by name."""
    found = {name: value.clone() for name, value in network.named_buffers()}
    return {name: value for name, value in found.items() if name.rpartition(".")[0].endswith(("norm", "psp"))}


@pytest.mark.parametrize("norm", NORMS[1:])
def test_kept_moments_are_the_average_of_the_batches(norm: str) -> None:
    hidden = a_layer("hidden", 8, norm=norm, recurrent=True, gain=2.0)
    network = random_network(hidden, a_layer("readout", 3, neuron="li"), channels=6, maximum=4, seed=1)
    layer, kept = network.stack[0], moments(network)
    for seed in range(3):
        x = torch.from_numpy(random_input(9, 7, 6, 4, seed)).float()
        network.train()
        codes = layer.integers(x.transpose(0, 1)).codes.detach()
        torch.testing.assert_close(moments(network), kept)  # what is asked of a layer changes nothing
        with torch.no_grad():
            network(x)
        network.eval()
        if layer.psp is not None:
            found = {"moment": x.square().mean((0, 1))}
        else:
            assert layer.norm is not None
            scale = (layer.unit * 2.0 ** int(layer.shifts[0])).detach()
            z = x @ (codes * layer.norm.gain.sign()[:, None] * scale).t().detach()
            axes = (0, 1) if norm == "batch" else (0, 1, 2)
            found = {"mean": z.mean(axes), "variance": z.var(axes, correction=0)}
        for name, before in kept.items():
            kept[name] = 0.9 * before + 0.1 * found[name.rpartition(".")[2]]
        torch.testing.assert_close(moments(network), kept)
        with torch.no_grad():
            network(x)
        torch.testing.assert_close(moments(network), kept)  # deployed, it keeps what it has


@pytest.mark.parametrize("rate", [0.02, 0.5])
@pytest.mark.parametrize("norm", NORMS[1:])
def test_a_network_begins_with_scales_that_suit_the_norm(norm: str, rate: float) -> None:
    """However rare spikes are: else weights of a psp norm would be clipped, and a threshold would be a few units."""
    hidden = a_layer("hidden", 64, norm=norm)
    network = SpikingNetwork(small_config(hidden, a_layer("readout", 3, neuron="li")), 200, 1)
    x = (torch.rand(50, 10, 200, generator=torch.Generator().manual_seed(0)) < rate).float()
    network.begin_norms(x)
    layer = network.stack[0]
    weights, integers = layer.weights()[0], layer.integers()
    torch.testing.assert_close(layer.unit * 2.0 ** int(layer.shifts[0]), layer.first_scale(weights))
    if layer.psp is not None:
        torch.testing.assert_close(layer.psp.moment, x.mean((0, 1)))
    else:
        z = x @ (integers.codes * layer.unit * 2.0 ** int(layer.shifts[0])).t()
        y = (z.detach() - layer.norm.mean) / torch.sqrt(layer.norm.variance + EPSILON)  # type: ignore[union-attr]
        assert abs(float(y.mean())) < 1e-3
        assert abs(float(y.var()) - 1) < 1e-2
    codes = integers.params.threshold.detach() / 2.0 ** int(layer.shifts[2])  # of 128, where the range is 2 thresholds
    assert 40 < float(codes.median()) < 100


@pytest.mark.parametrize("fold", FOLDS)
def test_a_norm_trains_in_either_float(fold: str) -> None:
    options = FOLDS[fold] | {"recurrent": True, "gain": 3.0}
    network = SpikingNetwork(small_config(a_layer("hidden", 6, **options), a_layer("readout", 3, neuron="li")), 8, 2)
    for dtype in (torch.float32, torch.float64):
        x = torch.from_numpy(random_input(12, 9, 8, 2, 0)).to(dtype)
        network.zero_grad()
        network.train()
        functional.cross_entropy(network.logits(x), torch.arange(12) % 3).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


# ---- whole runs


def verified(text: str, *executors: str) -> list[float]:
    """Trains, exports and verifies: no mismatch on any of them. The training accuracies of the epochs."""
    Path("net.toml").write_text(text)
    succeed("train", "--network", "net.toml", "--out", "run")
    succeed("export", "run", "--out", "build", "--name", "net")
    on = [word for name in executors for word in ("--on", name)]
    rows = json.loads(succeed("verify", "build", "--run", "run", *on, "--json").out)
    assert [(row["mismatches"], row["values"] > 0) for row in rows] == [(0, True)] * len(executors)
    return [json.loads(line)["train_accuracy"] for line in Path("run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fold", FOLDS)
def test_what_a_norm_has_learned_is_what_runs(fold: str) -> None:
    options = "\n".join(f"{IN_FILE.get(name, name)} = {json.dumps(value)}" for name, value in FOLDS[fold].items())
    text = NETWORK.replace("size = 12", f"size = 24\n{options}").replace("[encoder]", '[encoder]\nkind = "rate"')
    verified(text.replace("[training]\nepochs = 1", "[training]\nepochs = 1\nrate = 0.01"), "interpreter", "simulator")
    kept = moments(Run.open(Path("run")).network)
    assert len(kept) == {"psp": 1, "none": 0}.get(FOLDS[fold].get("norm", "none"), 2)
    assert all(not torch.equal(value, value.round()) for value in kept.values())  # as the 0 and 1 of the start are


@pytest.mark.parametrize("norm", NORMS[1:])
def test_several_processes_are_refused_a_batchs_moments(norm: str) -> None:
    hidden, readout = a_layer("hidden", 8, norm=norm), a_layer("readout", 10, neuron="li")
    config = small_config(hidden, readout)
    with mock.patch.object(parallel, "size", return_value=2), pytest.raises(BadInput) as error:
        new_run(Path("run"), config, load("digits", None))
    one_line(error, f"norm: {norm}", "one process")
    assert not Path("run").exists()


def test_a_moment_below_0_is_refused(tmp_path: Path) -> None:
    for norm, name in (*((norm, "norm.variance") for norm in CURRENT_NORMS), ("psp", "psp.moment")):
        network = SpikingNetwork(
            small_config(a_layer("hidden", 4, norm=norm), a_layer("readout", 3, neuron="li")), 3, 1
        )
        tensors = network.state_dict()
        tensors[f"layers.0.{name}"].view(-1)[-1] = -1
        with pytest.raises(BadInput) as error:
            network.restore(tensors, tmp_path)
        one_line(error, "layer hidden", name)


@pytest.mark.parametrize(
    ("fold", "calibration"), [("psp", "mse"), ("standardized", "mse"), ("batch", "mse"), ("layer-batch", "minmax")]
)
def test_a_norm_is_taken_over_from_full_precision(fold: str, calibration: str) -> None:
    """The moments as they are, and with them what each neuron sends (see the next test)."""
    options = "\n".join(f"{IN_FILE.get(name, name)} = {json.dumps(value)}" for name, value in FOLDS[fold].items())
    Path("net.toml").write_text(
        NETWORK.replace("size = 12", f"size = 24\nneuron.decay_bits = 12\n{options}") + "rate = 0.01"
    )
    full = ("--weights", "float", "--states", "float", "--epochs", 1)
    succeed("train", "--network", "net.toml", *full, "--out", "full")
    precise = ("--weights", 8, "--states", 12, "--epochs", 0, "--calibration", calibration)
    done = succeed("train", "--network", "net.toml", "--from", "full", *precise, "--out", "run")
    first, then = (Run.open(Path(name)).network for name in ("full", "run"))
    torch.testing.assert_close(moments(first), moments(then))
    run = Run.open(Path("run"))
    inputs, labels = run.tensors(load("digits", None).test, run.exact_dtype())
    right = float((run.network(inputs)[:, -1].argmax(1) == labels).double().mean())
    assert done.out.splitlines()[-1] == f"test accuracy {100 * right:.2f} %"
    if fold in ("psp", "standardized"):
        refused = quantal("train", "--network", "net.toml", "--from", "full", "--calibration", "gpfq", "--out", "new")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "--calibration: gpfq" in refused.err


@pytest.mark.parametrize("fold", ["psp", "standardized", "batch", "layer-batch"])
def test_a_norm_that_is_taken_over_sends_what_the_source_does(fold: str) -> None:
    """On weights that nobody trained. Up to 0.19 of the spikes come or fail to, with seeds 0 to 19."""
    options = FOLDS[fold] | {"decay_bits": 12, "gain": 3.0, "weights": "float", "states": "float"}
    readout = a_layer("readout", 3, neuron="li", weights="float", states="float")
    source = random_network(a_layer("hidden", 24, **options), readout, channels=12, maximum=3, seed=1)
    x = torch.from_numpy(random_input(24, 20, 12, 3, 1)).float()
    source.begin_norms(x)
    network = SpikingNetwork(small_config(*with_precision(source.config, weights=8, states=12).layers), 12, 3)
    warm_start(network, source, x, "mse", final=True)
    sent: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for one, spikes in zip((source, network), sent, strict=True):
            one(x, sent=spikes)
    (theirs,), (mine,) = sent
    assert 0 < float(theirs.mean()) < 0.9
    assert float((mine != theirs).float().mean()) < 0.5 * float(theirs.mean())


# ---- S²NN: one step, no memory

STEPLESS = re.sub(r"recurrent = true", 'neuron = "step"\nnorm = "batch"', NETWORK.replace("size = 12", "size = 48"))
STEPLESS = STEPLESS.replace("steps = 4", "steps = 1").replace("epochs = 1", 'epochs = 6\nsurrogate = "s2nn"\nslope = 4')


def test_a_single_step_network_learns_and_runs_without_a_state() -> None:
    # 0.95 to 0.97 with seeds 0 to 19; chance gives 0.1
    assert verified(STEPLESS, "interpreter", "simulator", "onnx", "c-host")[-1] > 0.6
    network = network_file.load(Path("build/network.json")).network
    hidden = network.layers[0]
    assert (network.encoding["steps"], hidden.states, hidden.semantics["states"]) == (1, (), "none")
    header = Path("build/net.h").read_text()
    struct = header[header.index("/* All memory") : header.index("} net_state;")]
    assert re.findall(r"\bhidden_(?!sums)\w+", struct) == ["hidden_spike"]
    assert "reset" not in hidden.semantics


@pytest.mark.parametrize("states", [{"states": 2}, {"states": 3, "state_quantizer": "squat", "spikes": 2}])
def test_how_states_are_kept_says_nothing_of_a_neuron_without_any(states: dict[str, Any]) -> None:
    assert NEURONS["step"].stateless
    networks = [
        random_network(
            a_layer("hidden", 7, neuron="step", norm="batch", **options), a_layer("readout", 3, neuron="li"),
            channels=5, maximum=9, seed=2,
        )
        for options in ({"spikes": states.get("spikes", 1)}, states)
    ]  # fmt: skip
    first, second = (lower(network, "network").network.layers[0] for network in networks)
    assert first.ops == second.ops
    assert np.array_equal(first.weights["fan_in"], second.weights["fan_in"])
