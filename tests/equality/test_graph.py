"""A graph of layers, with convolutions, delays and added currents, is what is trained, exported and counted."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.base.windows import Window
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Conv, MatVec, SumPool
from quantal.export.run import EXECUTORS
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.cli.export import export
from quantal.qat.cli.train import train
from quantal.qat.config import config_file, rules
from quantal.qat.config.precision import with_precision
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.training.warm_start import warm_start
from support.graphs import GRAPHS, HEAD, INPUTS, MOST, OUT, READOUTS, STEPS, graph, made
from support.layers import replace
from support.messages import one_line
from support.networks import write
from support.neurons import KINDS as NEURON_KINDS


@cache
def lively(name: str) -> tuple[SpikingNetwork, Ints]:
    """The first of a few seeds at which every record moves."""
    for seed in range(30):
        network, x = made(graph(name), seed)
        if all(np.ptp(values) > 0 for values in hard_trace(network, x, torch.float64).values()):
            return network, x
    raise AssertionError("in none of these networks does every record move")


@pytest.mark.parametrize("name", GRAPHS)
def test_the_interpreter_gives_what_torch_gives(name: str) -> None:
    network, x = lively(name)
    lowered = lower(network, "network")
    trace, reference = interpret.run(lowered.network, x), hard_trace(network, x, exact_dtype(lowered))
    assert list(trace) == list(reference)
    for record, values in reference.items():
        assert np.array_equal(trace[record], values), record


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    @cache
    def build(name: str) -> Build:
        return write(lively(name)[0], tmp_path_factory.mktemp(name) / "build", "model", lively(name)[1])

    return build


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", GRAPHS)
def test_every_executor_gives_what_torch_gives(name: str, executor: str, built: Callable[[str], Build]) -> None:
    x, reference = built(name).vectors()
    with EXECUTORS[executor](built(name)) as run:
        got = run(x)
    assert set(got) == set(reference)
    assert all(np.array_equal(got[record], values) for record, values in reference.items())


KINDS: dict[str, dict[str, Any]] = {
    **{f"{reset}-{timing}": {"reset": reset, "timing": timing} for reset, timing in RESETTING},
    **NEURON_KINDS,
    "step": {"neuron": "step"},
    "several": {"spikes": 3, "state_range": 8.0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["planes", "delays", "residual"])
def test_every_neuron_is_equal_in_every_kind_of_layer(name: str, kind: str) -> None:
    options = KINDS[kind]

    def changed(layer: Layer) -> Layer:
        tabled = "state_quantizer" in options and ("residual" in name)
        spared = layer.connection == "pool" or layer.neuron.readout or tabled
        if options.get("neuron") == "step":
            spared = spared or layer.recurrent
        return layer if spared else replace(layer, **options)

    settings = graph(name)
    settings = replace(settings, layers=tuple(map(changed, settings.layers)))
    rules.refuse(settings, name)
    moved = set()
    for seed in range(3):
        network, x = made(settings, seed)
        lowered = lower(network, "network")
        trace, reference = interpret.run(lowered.network, x), hard_trace(network, x, exact_dtype(lowered))
        for record, values in reference.items():
            assert np.array_equal(trace[record], values), record
            moved |= {record} if np.ptp(values) else set()
    assert {record for record in reference if record.endswith(".spike")} <= moved


@pytest.mark.parametrize(("reset", "timing"), RESETTING)
@pytest.mark.parametrize("kind", ["dense", *READOUTS])
def test_a_count_of_spikes_is_equal_in_every_kind_of_readout(kind: str, reset: str, timing: str) -> None:
    settings = graph(f"neurons_{kind}")
    *layers, out = settings.layers
    out = replace(out, neuron="count", state_range=2.0, reset=reset, timing=timing, gain=8.0)
    settings = replace(settings, layers=(*layers, out))
    rules.refuse(settings, kind)
    network, x = made(settings)
    lowered = lower(network, "network")
    trace, reference = interpret.run(lowered.network, x), hard_trace(network, x, exact_dtype(lowered))
    assert all(np.array_equal(trace[record], values) for record, values in reference.items())
    assert np.ptp(reference["out.count"]) > 0


@pytest.mark.parametrize("name", GRAPHS)
def test_the_fused_engine_gives_what_torch_gives_and_its_gradients(name: str) -> None:
    network, x = lively(name)
    wanted = torch.as_tensor(x, dtype=torch.float64)

    def gradients(record: dict[str, Tensor] | None) -> tuple[Tensor, dict[str, Tensor]]:
        network.zero_grad()
        out = network(wanted, record)
        (out[:, -1] * network.logit_unit(STEPS)).square().sum().backward()
        return out.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    (fused, ours), (torchs, theirs) = gradients(None), gradients({})
    assert torch.equal(fused, torchs)
    assert set(ours) == set(theirs)
    assert sum(float(grad.abs().max()) > 0 for grad in ours.values()) > len(ours) // 2
    for parameter, grad in theirs.items():
        scale = float(grad.abs().max())
        assert float((ours[parameter] - grad).abs().max()) <= 1e-5 * scale, parameter


@pytest.mark.parametrize("name", GRAPHS)
def test_parts_are_the_whole_bit_for_bit(name: str) -> None:
    network, x = lively(name)
    wanted = torch.as_tensor(x, dtype=torch.float32)
    with torch.no_grad():
        carried: dict[str, dict[str, Tensor]] = {}
        parts = [network(part, carried=carried) for part in wanted.split([1, 2, 6], dim=1)]
        assert torch.equal(torch.cat(parts, dim=1), network(wanted))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_configuration_reads_back(name: str) -> None:
    assert config_file.loads(config_file.dumps(graph(name)), name) == graph(name)


# ---- the penalty's count


def additions(network: Network, layer: Layer, trace: interpret.Trace, x: Ints) -> int:
    """What an event-driven simulation of a layer adds for the spikes that it sees, number by number."""
    total = 0
    for op in layer.ops:
        if not isinstance(op, MatVec | Conv):
            continue
        source = layer.ops[op.x]
        name = getattr(source, "source", "")
        if name.startswith("input"):
            continue
        other = next((one for one in network.layers if one.name == name), layer)
        events = trace[f"{other.name}.{'value' if 'delay' in other.name else 'spike'}"]
        if other is layer:
            events = np.concatenate([np.zeros_like(events[:, :1]), events[:, :-1]], axis=1)
        for sample, step, place in np.argwhere(events):
            count = int(events[sample, step, place])
            if isinstance(op, MatVec):
                total += count * len(layer.weights[op.weights])
            else:
                channels, positions = op.shape[0], op.window.taps()
                plane = op.window.size // channels
                total += count * int((positions == place % plane).sum()) * len(layer.weights[op.weights]) // op.groups
    return total


@pytest.mark.parametrize("name", ["delays", "residual", "normalized"])
def test_operations_are_the_additions_of_a_simulation_also_at_the_edges_of_planes(name: str) -> None:
    network, x = lively(name)
    lowered = lower(network, "network").network
    trace, sent = interpret.run(lowered, x), []
    with torch.no_grad():
        network(torch.as_tensor(x, dtype=torch.float64), sent=sent)
    counted = float(network.operations(sent).sum())
    diagonal = 0.0  # each spike to its own neuron alone
    for layer in network.stack:
        if layer.config.recurrent == "diagonal":
            diagonal += float(trace[f"{layer.config.name}.spike"][:, :-1].sum())
    assert counted == sum(additions(lowered, layer, trace, x) for layer in lowered.layers) + diagonal > 0


# ---- planes


@pytest.mark.parametrize("groups", [1, 2])
def test_windows_see_in_torch_what_they_see_in_numpy(groups: int) -> None:
    window = Window((4, 5, 6), (3, 2), (2, 1), (1, 0))
    rng = np.random.default_rng(groups)
    x, kernels = rng.integers(0, 9, (3, 2, window.size)), rng.integers(-8, 8, (6, 4 // groups * 6))
    given = torch.as_tensor(x, dtype=torch.float64)
    found = planes.convolved(given, torch.as_tensor(kernels, dtype=torch.float64), window, groups)
    assert np.array_equal(found.numpy(), window.products(x, kernels, groups))
    library = torch.nn.functional.conv2d(
        given.view(6, 4, 5, 6), torch.as_tensor(kernels, dtype=torch.float64).view(6, 4 // groups, 3, 2),
        stride=window.stride, padding=window.padding, groups=groups,
    )  # fmt: skip
    assert np.array_equal(found.numpy(), library.reshape(3, 2, -1).numpy())
    assert np.array_equal(planes.pooled(given, window).numpy(), window.gathered(x).sum(-1).reshape(3, 2, -1))


def test_a_pooled_average_is_a_sum_whose_scale_the_weights_take_up() -> None:
    """Weights begin as many times smaller as the window has places: an average pool, folded."""
    network, _ = made(graph("planes"))
    image, grouped = network.stack[0], network.stack[1]
    bound = grouped.config.weights.gain / (4 * np.sqrt(grouped.weight.shape[1]))
    assert float(grouped.weight.detach().abs().max()) <= bound
    assert any(isinstance(op, SumPool) for op in lower(network, "network").network.layers[1].ops)
    assert image.rows == 4


# ---- what is refused

WINDOWED = '[[layer]]\nname = "a"\nconnection = "conv"\nchannels = 2\n'
POOL = '[[layer]]\nname = "a"\nconnection = "pool"\nkernel = [2]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[layer]]\nname = "a"\nsize = 4\ninputs = ["b"]\n' + OUT, ("layer[0]: inputs", "'b'")),
        ('[[layer]]\nname = "a"\nsize = 4\ninputs = ["input", "input"]\n' + OUT, ("layer[0]: inputs", "twice")),
        ('[[layer]]\nname = "a"\nsize = 4\ninputs = "input"\n' + OUT, ("layer[0]: inputs", "list of strings")),
        ('[[layer]]\nname = "a"\nsize = 4\ndelays = [3, 1]\n' + OUT, ("layer[0]: delays", "ascending")),
        ('[[layer]]\nname = "a"\nsize = 4\ndelays = [5000]\n' + OUT, ("layer[0]: delays", "4096")),
        ('[[layer]]\nname = "a"\nsize = 4\ndelays = [0.5]\n' + OUT, ("layer[0]: delays[0]", "integer in [0, 4096]")),
        ('[[layer]]\nname = "a"\nsize = 4\n' + OUT + 'inputs = ["input"]\n', ("layer[0]: name", "no layer sees 'a'")),
        ('[[layer]]\nname = "a"\nsize = 4\nkernel = [3]\n' + OUT, ("layer[0]: kernel", "not a field of dense")),
        ('[[layer]]\nname = "a"\nsize = 4\nrecurrent = "full"\n' + OUT, ("layer[0]: recurrent", "diagonal")),
        (POOL + 'neuron = "lif"\n' + OUT, ("layer[0]: neuron", "not a field of pool")),
        ('[[layer]]\nname = "a"\n' + OUT, ("layer[0]: size", "missing")),
        (WINDOWED + 'kernel = [3]\n' + OUT, ("layer[0]: shape", "missing")),
        (
            WINDOWED + 'kernel = [9]\nshape = [1, 8, 8]\n' + OUT,
            ("layer[0]: kernel", "[1, 8, 8]"),
        ),
        (
            WINDOWED.replace("2", "3") + 'kernel = [2]\ngroups = 2\nshape = [2, 8, 4]\n' + OUT,
            ("layer[0]: groups", "2 do not divide 2 channels into 3"),
        ),
        (
            WINDOWED + 'kernel = [3]\nshape = [1, 8, 8]\nsize = 5\n' + OUT,
            ("layer[0]: size", "not a field of conv"),
        ),
        (
            WINDOWED + 'kernel = [3]\nshape = [1, 8, 8]\nrecurrent = true\n'
            + OUT,
            ("layer[0]: recurrent", "not a field of conv, only of dense"),
        ),
        (
            POOL + 'shape = [1, 8, 8]\nneuron.decay = 0.5\n' + OUT,
            ("layer[0]: neuron", "not a field of pool"),
        ),
        ('[[layer]]\nname = "a"\nsize = 4\nadd = "b"\n' + OUT, ("layer[0]: add", "'b'")),
        (
            '[[layer]]\nname = "a"\nsize = 4\n[[layer]]\nname = "b"\nsize = 5\nadd = "a"\n' + OUT,
            ("layer[1]: add", "4 neurons, not 5"),
        ),
        (
            '[[layer]]\nname = "a"\nsize = 4\nrecurrent = true\n[[layer]]\nname = "b"\nsize = 4\nadd = "a"\n' + OUT,
            ("layer[1]: add", "recurrent"),
        ),
        (
            '[[layer]]\nname = "a"\nsize = 4\nnorm = "batch"\n[[layer]]\nname = "b"\nsize = 4\nadd = "a"\n' + OUT,
            ("layer[1]: add", "norm"),
        ),
        (
            '[[layer]]\nname = "a"\nsize = 10\n' + OUT + 'add = "a"\n',
            ("layer[1]: add", "readout"),
        ),
        (
            '[[layer]]\nname = "a"\nsize = 4\ndelays = [1]\n' + OUT + '[training]\nmethod = "saf-e"\n',
            ("layer[0]: delays", "saf-e"),
        ),
    ],
    ids=range(23),
)  # fmt: skip
def test_what_is_no_network_is_refused_by_name(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        config_file.loads(HEAD + text, "net.toml")
    one_line(error, "net.toml", *words)


def test_a_shape_that_the_data_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput) as error:
        SpikingNetwork(graph("planes"), 65, MOST)
    one_line(error, "image: shape", "65 values")


def test_a_graph_trains_and_takes_over_a_run(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(HEAD + GRAPHS["planes"] + "[training]\nepochs = 2\nrate = 5e-3\n")
    net = ["--network", str(tmp_path / "net.toml")]

    def command(what: click.Command, *arguments: str) -> Result:
        return CliRunner().invoke(what, [str(argument) for argument in arguments])

    full, run, build = (str(tmp_path / name) for name in ("full", "run", "build"))
    assert command(train, *net, "--weights", "float", "--states", "float", "--out", full).exit_code == 0
    done = command(train, *net, "--from", full, "--calibration", "gpfq", "--epochs", "0", "--out", run)
    assert isinstance(done.exception, BadInput)
    assert "groups" in str(done.exception)
    assert command(train, *net, "--from", full, "--epochs", "1", "--out", run).exit_code == 0
    assert command(export, run, "--out", build).exit_code == 0
    x, trace = Build.open(tmp_path / "build").vectors()
    again = interpret.run(Build.open(tmp_path / "build").network, x)
    assert all(np.array_equal(again[record], values) for record, values in trace.items())


def test_gpfq_fits_kernels(tmp_path: Path) -> None:
    settings = graph("residual", lambda text: text.replace('norm = "psp"', ""))
    source, x = made(with_precision(settings, weights="float", states="float"))
    network = SpikingNetwork(settings, INPUTS, MOST)
    warm_start(network, source, torch.as_tensor(x, dtype=torch.float32), "gpfq", final=True)
    pairs = zip(network.stack, source.stack, strict=True)
    moved = [float((ours.weight - theirs.weight).detach().abs().max()) for ours, theirs in pairs]
    assert min(moved) > 0
    trace = interpret.run(lower(network, "network").network, x)
    reference = hard_trace(network, x, torch.float64)
    assert all(np.array_equal(trace[record], values) for record, values in reference.items())
