"""Warm starts: what a network takes over from another, at which scales and ranges, and what goes on from there."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantal.qat.config.precision import with_precision
from quantal.qat.engine import cpu
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.training.run import Run
from quantal.qat.training.warm_start import METHODS, warm_start
from support.commands import NETWORK, contents, refused, succeed
from support.layers import a_layer, replace
from support.neurons import KINDS
from support.runs import interrupted, results, said
from support.torch_networks import random_input, random_network, small_config

FLOAT: dict[str, Any] = {"weights": "float", "states": "float"}
CHANNELS, MAXIMUM = 6, 3
REAL_KINDS = {name: kind for name, kind in KINDS.items() if "state_quantizer" not in kind}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.toml, its run in full precision, `full`, and one of 8-bit weights, `eight`."""
    folder = tmp_path_factory.mktemp("learned")
    text = NETWORK.replace("size = 12", "size = 40\nweights.gain = 2.0").replace(
        "epochs = 1", "epochs = 6\nrate = 0.005"
    )
    (folder / "net.toml").write_text(text.replace('neuron = "li"', 'neuron = "li"\nstates.range = 16.0'))
    options = ("train", "--network", folder / "net.toml")
    succeed(*options, "--weights", "float", "--states", "float", "--out", folder / "full")
    succeed(*options, "--weights", 8, "--from", folder / "full", "--epochs", 1, "--out", folder / "eight")
    return folder


@pytest.fixture
def here(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a net.toml that is free to change."""
    (tmp_path / "net.toml").write_text((learned / "net.toml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quantize(source: Path, *args: object, out: str = "run", epochs: int = 0) -> None:
    """Makes a new run that begins with another."""
    succeed("train", "--network", "net.toml", "--from", source, *args, "--epochs", epochs, "--out", out)


def teacher(seed: int = 0, recurrent: bool = True, **options: Any) -> SpikingNetwork:
    """A network in full precision with a threshold for each neuron, perturbed as training would."""
    no_codes: dict[str, Any] = FLOAT | {"state_range": 2.0}
    hidden = a_layer("hidden", 16, recurrent=recurrent, gain=3.0, **options | no_codes)
    readout = a_layer("readout", 4, neuron="li", state_range=8.0, **FLOAT)
    return random_network(hidden, readout, channels=CHANNELS, maximum=MAXIMUM, seed=seed)


def student(
    source: SpikingNetwork, method: str = "mse", samples: int = 24, final: bool = True, *, reach: float = 0.0,
    scale: str = "row", **precision: Any,
) -> SpikingNetwork:  # fmt: skip
    """What `source` becomes in this precision and with this scale in every layer; reach: the hidden one's range."""
    config = with_precision(source.config, **{"weights": 4, "states": 8} | precision)
    hidden, readout = (replace(layer, scale=scale) for layer in config.layers)
    layers = replace(hidden, state_range=reach) if reach else hidden, readout
    network = SpikingNetwork(small_config(*layers), CHANNELS, MAXIMUM)
    warm_start(network, source, sample(samples), method, final)
    return network


def reach_of(kind: str | None) -> float:
    """The range of states that this kind of neuron is given; 0 where it has the usual one."""
    return float(REAL_KINDS.get(kind or "", {}).get("state_range", 0.0))


def sample(count: int = 24) -> Tensor:
    return torch.from_numpy(random_input(count, 10, CHANNELS, MAXIMUM, 1)).float()


def scale(layer: SpikingLayer) -> Tensor:
    """What a code of a weight is worth, (size, 1) or (1, 1)."""
    return layer.unit.detach() * 2.0 ** int(layer.shifts[0])


@pytest.fixture(autouse=True)
def _in_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is trained, torch's own reading of the step: compiling the engine costs more than it gives."""
    if "here" not in request.fixturenames:
        monkeypatch.setattr(cpu, "available", lambda: False)


# ---- what is taken over


def test_mse_is_the_calibration_by_default(here: Path, learned: Path) -> None:
    quantize(learned / "full", "--weights", 3, out="default")
    quantize(learned / "full", "--weights", 3, "--calibration", "mse", out="mse")
    quantize(learned / "full", "--weights", 3, "--calibration", "minmax", out="minmax")
    assert contents(Path("default")) == contents(Path("mse"))
    assert results("default") != results("minmax")


@pytest.mark.parametrize("kind", [None, *REAL_KINDS])
def test_the_parameters_of_the_source_are_taken_over_as_they_are(kind: str | None) -> None:
    source = teacher(**REAL_KINDS.get(kind or "", {}))
    network = student(source, states=16, reach=reach_of(kind))
    names = ("weight", "recurrent", "bias", "threshold", "decay", "synapse_decay", "adaptation", "adaptation_decay")
    for mine, theirs in zip(network.stack, source.stack, strict=True):
        for name in names:
            assert (getattr(mine, name) is None) == (getattr(theirs, name) is None)
            if getattr(mine, name) is not None:
                assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def differ(network: SpikingNetwork, source: SpikingNetwork) -> float:
    """How many of the hidden layer's spikes come or fail to, by the number that the source sends.

    What has nothing to do with the source, and spikes as often, differs by 2 at these rates of 0.04 to 0.3.
    """
    traces: list[dict[str, Tensor]] = [{}, {}]
    with torch.no_grad():
        for one, trace in zip((source, network), traces, strict=True):
            one(sample(), trace)
    theirs, mine = (trace["hidden.spike"] for trace in traces)
    assert 0.02 < theirs.mean() < 0.5
    return float((mine != theirs).float().sum() / theirs.sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [None, *REAL_KINDS])
def test_at_a_high_precision_every_kind_of_neuron_sends_what_the_source_does(kind: str | None, method: str) -> None:
    """0.00 to 0.58 with seeds 0 to 9; alpha neurons spike least, and differ most."""
    source = teacher(**REAL_KINDS.get(kind or "", {}))
    assert differ(student(source, method, weights=8, states=16, reach=reach_of(kind)), source) < 0.9


@pytest.mark.parametrize("quantizer", ["uniform", "aligned", "squat", "squat-zero", "dq"])
def test_eight_bit_states_keep_most(quantizer: str) -> None:
    """Up to 0.44 with seeds 0 to 9."""
    source = teacher()
    assert differ(student(source, weights=8, states=8, state_quantizer=quantizer), source) < 0.8


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
@pytest.mark.parametrize("quantizer", ["aligned", "squat", "dq"])
def test_thresholds_fold_into_rows_where_one_table_serves_all(quantizer: str, reset: str) -> None:
    """A neuron is positively homogeneous: a row, its bias and its threshold may be divided by the same number."""
    source = teacher(reset=reset).double()
    taken = student(teacher(reset=reset), state_quantizer=quantizer).stack[0]
    folded = teacher(reset=reset).double()
    theirs, layer = source.stack[0], folded.stack[0]
    assert taken.threshold is None
    assert theirs.threshold is not None
    assert layer.threshold is not None
    assert theirs.threshold.min() < 0.7 * theirs.threshold.max()
    row = taken.state_reach / theirs.threshold
    with torch.no_grad():
        for name in ("weight", "recurrent", "bias"):
            scaled = getattr(theirs, name) * (row if name == "bias" else row[:, None])
            torch.testing.assert_close(getattr(taken, name).double(), scaled, rtol=1e-6, atol=0)
            getattr(layer, name).copy_(scaled)
        layer.threshold.fill_(taken.state_reach)
        traces: list[dict[str, Tensor]] = [{}, {}]
        for network, trace in zip((source, folded), traces, strict=True):
            network(sample().double(), trace)
    assert torch.equal(traces[0]["hidden.spike"], traces[1]["hidden.spike"])
    assert 0 < traces[0]["hidden.spike"].mean() < 1
    torch.testing.assert_close(traces[0]["hidden.u"] * row, traces[1]["hidden.u"])


def test_thresholds_fold_into_rows_where_a_layer_has_one() -> None:
    source = teacher()
    options: dict[str, Any] = {"weights": 8, "states": 16}
    hidden, readout = with_precision(source.config, **options).layers
    network = SpikingNetwork(small_config(replace(hidden, threshold_per="layer"), readout), CHANNELS, MAXIMUM)
    warm_start(network, source, sample(), "mse", final=True)
    (wide, narrow), (many, one) = zip(
        *((n.stack[0].weight, n.stack[0].threshold) for n in (source, network)), strict=True
    )
    torch.testing.assert_close(wide / many[:, None], narrow / one[:, None])


# ---- how scales and ranges are chosen


@pytest.mark.parametrize("recurrent", [False, True])
def test_every_method_is_another(recurrent: bool) -> None:
    source = teacher(recurrent=recurrent)
    states = [student(source, m, samples=40, state_quantizer="aligned").state_dict() for m in METHODS]
    for (m, a), (n, b) in itertools.combinations(zip(METHODS, states, strict=True), 2):
        assert any(not torch.equal(a[name], b[name]) for name in a), (m, n)
    again = student(source, "gpfq", samples=40, state_quantizer="aligned").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in states[METHODS.index("gpfq")].items())


def test_scales_reach_the_greatest_weight_or_have_the_least_error() -> None:
    source = teacher()
    found = {method: student(source, method).stack[0] for method in METHODS}
    w = source.stack[0].weight
    torch.testing.assert_close(scale(found["minmax"]), w.abs().amax(1, keepdim=True) / 7)
    assert torch.equal(scale(found["hindsight"]), scale(found["minmax"]))
    assert torch.equal(scale(found["gpfq"]), scale(found["mse"]))

    def error(scale: Tensor) -> Tensor:
        return ((w / scale + 0.5).floor().clamp(-7, 7) * scale - w).square().sum(1)

    for factor in (0.5, 0.8, 1.25):
        assert error(scale(found["mse"])).sum() < error(scale(found["mse"]) * factor).sum()
    assert (error(scale(found["mse"])) <= error(scale(found["minmax"])) * (1 + 1e-6)).all()
    assert error(scale(found["mse"])).sum() < 0.95 * error(scale(found["minmax"])).sum()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("recurrent", [False, True])
def test_gpfq_leaves_codes_with_less_error_than_rounding(recurrent: bool, bits: int) -> None:
    source = teacher(recurrent=recurrent)
    path, plain = (student(source, method, samples=60, weights=bits, states=12) for method in ("gpfq", "mse"))
    x = sample(60).flatten(0, 1)
    errors = []
    for network in (path, plain):
        layer, theirs = network.stack[0], source.stack[0]
        codes = layer.integers().codes * scale(layer)
        errors.append(float(((codes - theirs.weight) @ x.t()).detach().square().sum()))
    assert errors[0] < errors[1]
    for layer in path.stack:
        # Weights lie on their grid, so that training goes on from what runs.
        torch.testing.assert_close(layer.integers().codes * scale(layer), layer.weight, rtol=1e-5, atol=0)
        if layer.recurrent is not None:
            back = layer.integers().recurrent * scale(layer) * 2.0 ** int(layer.shifts[1] - layer.shifts[0])
            torch.testing.assert_close(back, layer.recurrent, rtol=1e-5, atol=0)


def test_gpfq_makes_the_outputs_of_the_network_nearer() -> None:
    def error(method: str, seed: int) -> float:
        source = teacher(seed, recurrent=False)
        network = student(source, method, samples=60, weights=2, states=16)
        with torch.no_grad():
            mine, theirs = (n(sample(60), {}) * n.stack[-1].unit.squeeze(1) for n in (network, source))
        mine = mine * 2.0 ** int(network.stack[-1].shifts[2])
        return float((mine - theirs).square().mean() / theirs.square().mean())

    gains = [error("gpfq", seed) / error("mse", seed) for seed in range(4)]
    assert sum(gain < 1 for gain in gains) >= 3


@pytest.mark.parametrize("quantizer", ["uniform", "aligned"])
def test_ranges_are_calibrated_where_no_training_follows(quantizer: str) -> None:
    """And else begin as in any training, on the scales that were found."""
    source = teacher()
    for method in set(METHODS) - {"hindsight"}:
        final, first = (student(source, method, final=f, state_quantizer=quantizer).stack[0] for f in (True, False))
        cold = SpikingLayer(CHANNELS, first.config, MAXIMUM, torch.Generator().manual_seed(0))
        torch.testing.assert_close(scale(first), scale(final))
        if quantizer == "aligned":
            assert first.ranges is not None
            assert torch.equal(first.ranges, cold.ranges)
            assert not torch.equal(first.ranges, final.ranges)
        else:
            assert (
                len({float(layer.unit.detach().mean()) * 2.0 ** int(layer.shifts[2]) for layer in (first, final)}) == 2
            )


@pytest.mark.parametrize("per", ["row", "layer"])
def test_a_scale_doubles_with_every_bit_less(per: str) -> None:
    source = student(teacher(), weights=8, scale=per)
    scales = [scale(source.stack[0])]
    for bits in (4, 2):
        source = student(source, weights=bits, scale=per)
        scales.append(scale(source.stack[0]))
    assert torch.equal(scales[1], 16 * scales[0])
    assert torch.equal(scales[2], 4 * scales[1])
    assert scales[0].shape == ((16, 1) if per == "row" else (1, 1))


def test_a_copy_of_equal_precision_is_the_same_network() -> None:
    """Scales are inherited, and so are learned ranges."""
    source = student(teacher(), state_quantizer="aligned", states=5)
    with torch.no_grad():
        for layer in source.stack:
            layer.unit_gain *= 1.1
            assert layer.ranges is not None
            layer.ranges *= 1.01
    copy = student(source, "minmax", state_quantizer="aligned", states=5)
    for mine, theirs in zip(copy.stack, source.stack, strict=True):
        assert torch.equal(mine.integers().codes, theirs.integers().codes)
        assert mine.ranges is not None
        assert torch.equal(mine.ranges, theirs.ranges)
    x = random_input(12, 10, CHANNELS, MAXIMUM, 1)
    got, expected = (hard_trace(network, x, torch.float64)["hidden.spike"] for network in (copy, source))
    assert (got != expected).mean() < 0.02


# ---- from the command line


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", 4),
        ("--weights", 1, "--calibration", "gpfq"),
        ("--weights", 2, "--weight-quantizer", "mquant", "--state-quantizer", "squat-threshold", "--states", 3),
        ("--weights", 3, "--weight-quantizer", "dq-power", "--state-quantizer", "dq", "--states", 4),
        ("--weights", 3, "--state-quantizer", "aligned", "--states", 3, "--calibration", "hindsight"),
    ],
    ids=str,
)
def test_without_an_epoch_it_is_quantized_exported_and_verified(
    here: Path, learned: Path, options: tuple[object, ...]
) -> None:
    quantize(learned / "full", *options)
    assert Path("run/metrics.jsonl").read_text() == ""
    assert Run.open(Path("run")).epochs_done == 0
    succeed("export", "run", "--out", "build", "--name", "net")
    for run in ((), ("--run", "run")):
        (row,) = json.loads(succeed("verify", "build", *run, "--on", "interpreter", "--json").out)
        assert (row["samples"], row["mismatches"]) == (32, 0)


def test_from_eight_bits_to_four_on_the_command_line(here: Path, learned: Path) -> None:
    quantize(learned / "eight", "--weights", 4)
    scales = [scale(Run.open(folder).network.stack[0]) for folder in (learned / "eight", here / "run")]
    torch.testing.assert_close(scales[1], 16 * scales[0])


def test_training_goes_on_from_what_was_learned(here: Path, learned: Path) -> None:
    """The first epoch's loss is 0.12 to 0.23 of that of a network that starts anew, with seeds 0 to 19."""
    succeed(*TRAIN, "--weights", 3, "--epochs", 1, "--out", "cold")
    quantize(learned / "full", "--weights", 3, "--states", 6, epochs=1, out="warm")
    cold, warm = (json.loads(Path(run, "metrics.jsonl").read_text())["loss"] for run in ("cold", "warm"))
    assert warm < 0.6 * cold


TRAIN = ("train", "--network", "net.toml", "--states", 6)


@pytest.mark.parametrize("quantizer", ["lsq", "dq-kmeans"])
def test_resuming_after_a_warm_start_goes_on_as_if_never_stopped(here: Path, learned: Path, quantizer: str) -> None:
    """Also where the quantizer's own parameters began anew with the weights of another run."""
    options = (*TRAIN, "--weights", 2, "--weight-quantizer", quantizer, "--from", learned / "full", "--epochs", 2)
    whole = said(succeed(*options, "--out", "whole"))
    interrupted(*options[1:], "--out", "cut", after=35)  # of 23 batches an epoch
    assert len(Path("cut/metrics.jsonl").read_text().splitlines()) == 1
    assert said(succeed("train", "--resume", "--out", "cut")) == whole
    assert contents(Path("cut")) == contents(Path("whole"))
    succeed(*options[:-1], 1, "--out", "parts")
    succeed("train", "--resume", "--epochs", 2, "--out", "parts")
    assert results("parts") == results("whole")


# ---- refusals


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = 40", "size = 41", "layer hidden: size: 40"),
        ("recurrent = true", "recurrent = false", "layer hidden: recurrent: True"),
        ("recurrent = true", "recurrent = true\nbias = false", "layer hidden: bias: True"),
        ("recurrent = true", 'recurrent = true\nneuron.reset = "zero"', "layer hidden: reset: 'subtract'"),
        ("recurrent = true", 'recurrent = true\nneuron.timing = "immediate"', "layer hidden: timing: 'delayed'"),
        ("recurrent = true", "recurrent = true\nneuron.spikes = 2", "layer hidden: spikes: 1"),
        ("recurrent = true", 'recurrent = true\nneuron.decay_per = "neuron"', "layer hidden: decay_per: 'layer'"),
        ("recurrent = true", 'recurrent = true\nnorm = "layer-batch"', "layer hidden: norm: 'none'"),
        ("recurrent = true", 'recurrent = true\nneuron.synapse = "exponential"', "layer hidden: synapse: 'none'"),
        ("recurrent = true", "recurrent = true\nweights.standardize = true", "layer hidden: standardize: False"),
        ("recurrent = true", "recurrent = true\nneuron.refractory = 2", "layer hidden: refractory: 0"),
        ("recurrent = true", "recurrent = true\nneuron.adaptation = 0.5", "layer hidden: adaptation: 'none'"),
        ("recurrent = true", "recurrent = true\nneuron.decay = 1", "layer hidden: decay: 'some'"),
        ('name = "hidden"', 'name = "other"', "layer hidden: name: 'hidden'"),
        ('neuron = "li"', 'neuron = "count"', "layer readout: neuron: 'li'"),
        ('neuron = "li"', 'neuron.kind = "li"\nneuron.pool = "max"', "layer readout: pool: 'last'"),
        ("[encoder]", '[encoder]\nkind = "latency"', ""),
        ('[[layer]]\nname = "hidden"', '[[layer]]\nname = "more"\nsize = 9\n\n[[layer]]\nname = "hidden"', "2 layers"),
    ],
)
def test_another_shape_is_refused(here: Path, learned: Path, old: str, new: str, words: str) -> None:
    text = (here / "net.toml").read_text()
    assert text.count(old) == 1
    (here / "net.toml").write_text(text.replace(old, new))
    if words:
        refused(here, f"train --network net.toml --from {learned}/full --out new", "--from:", *words.split())
    else:  # another encoding of as many channels is no other shape
        quantize(learned / "full")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--calibration mse", "--calibration: needs --from"),
        ("--from {}/nowhere", "nowhere: no such run folder"),
        ("--from {}/net.toml", "net.toml: no such run folder"),
        ("--from {}/full --calibration best", "'--calibration': 'best' percentile"),
        ("--from {}/full --calibration gpfq --weight-quantizer dq", "--calibration: gpfq lsq"),
        ("--from {}/full --calibration gpfq --weights float --states float", "--calibration: gpfq lsq"),
    ],
)
def test_what_cannot_be_is_refused(here: Path, learned: Path, options: str, words: str) -> None:
    refused(here, f"train --network net.toml {options.format(learned)} --out new", *words.split())


@pytest.mark.parametrize("flag", ["--from {}/full", "--calibration mse --from {}/full", "--weight-quantizer dq"])
def test_a_run_that_is_resumed_has_begun(here: Path, learned: Path, flag: str) -> None:
    quantize(learned / "full")
    refused(here, f"train --resume {flag.format(learned)} --out run", "--resume takes the network from the run")
