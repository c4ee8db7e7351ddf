"""Truncated BPTT: the forward as it is, gradients as autograd has them with a detach, memory for a part at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import neurons
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.config_file import loads
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.config.rules import refuse as check
from quantal.qat.data.common import Dataset, Split
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.checkpoint import CHECKPOINT_FILE
from quantal.qat.training.epochs import batch_gradients, train_until
from quantal.qat.training.run import METRICS_FILE, Run
from quantal.qat.training.start import new_run
from support.engines import KEEPING, assert_equal, input_of, layer_of
from support.kernels import DEVICE, use_kernels
from support.layers import a_layer, replace
from support.messages import one_line
from support.torch_networks import random_input, random_network, small_config

STEPS = 11
LAYERS = {
    **{name: KEEPING[name] for name in ("delayed", "immediate", "max", "count", "remembering")},
    "alpha": {"neuron": "alpha", "reset": "zero", "decay": 0.6, "threshold": 0.3, "state_range": 16.0},
    "table": {"state_quantizer": "dq", "states": 3, "recurrent": True},
}
Execution = Callable[[SpikingLayer, Tensor, TorchOps, dict[str, Tensor]], Tensor]


@pytest.fixture(params=["torch", "c", "triton"])
def execution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Execution]:
    """A layer's forward, in each of the ways to run it; from the carried states, if any."""
    if request.param == "triton":
        pytest.importorskip("triton")
        if DEVICE.type != "cpu":
            pytest.skip("on a GPU, Triton multiplies no float64: the interpreter is what is compared")
        use_kernels(monkeypatch, "double")
    record = {} if request.param == "torch" else None  # whoever records gets torch's own reading
    return lambda layer, x, ops, carried: layer(x, ops, record, carried)


def made(name: str) -> tuple[SpikingLayer, SpikingNetwork, Tensor]:
    """A layer, the network that holds it, and x (STEPS, 5, 6) that moves it."""
    layer, network = layer_of(3, 6, 3, **LAYERS[name])
    network.double()
    return layer, network, input_of(2, (STEPS, 5, 6), 3, 0.4, torch.float64)


def results(layer: SpikingLayer, x: Tensor, forward: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The output and the gradient of everything, for a random weighting of the output."""
    layer.zero_grad()
    given = x.clone().requires_grad_()
    out = forward(given)
    weighting = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (out * weighting).sum().backward()
    named = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": out.detach(), "x": given.grad, **named}


def with_detaches(layer: SpikingLayer, ops: TorchOps, x: Tensor, every: int) -> Tensor:
    """The step, one after the other, with an explicit detach of all states wherever `every` divides t."""
    integers = layer.integers()
    fan_in, back, _ = layer.shifts.tolist()
    n = layer.config.size
    state = {name: x.new_full((x.shape[1], n), s.init) for name, s in layer.states(integers.params).items()}
    outputs = []
    for t in range(len(x)):
        if t % every == 0:
            state = {name: value.detach() for name, value in state.items()}
        feedback = None if layer.recurrent is None else state["spike"] @ integers.recurrent.t()
        current = neurons.current(ops, x[t] @ integers.codes.t(), fan_in, feedback, back, integers.bias)
        output, state = layer.neuron.step(ops, current, state, integers.params)
        state |= {} if layer.recurrent is None else {"spike": output}
        outputs.append(output)
    return torch.stack(outputs)


# ---- gradients


@pytest.mark.parametrize(("name", "every"), [*((name, 4) for name in LAYERS), ("delayed", 1)])
def test_gradients_are_those_of_autograd_with_a_detach(execution: Execution, name: str, every: int) -> None:
    layer, network, x = made(name)
    whole = results(layer, x, lambda given: execution(layer, given, network.ops, {}))
    layer.truncate = every
    truncated = results(layer, x, lambda given: execution(layer, given, network.ops, {}))
    assert float(truncated["output"].std()) > 0
    assert torch.equal(truncated["output"], whole["output"])
    assert not torch.equal(truncated["x"], whole["x"])
    assert_equal(
        truncated, results(layer, x, lambda given: with_detaches(layer, network.ops, given, every)), exact=True
    )


@pytest.mark.parametrize("every", [1, 4, STEPS])
def test_what_comes_before_the_last_cut_has_no_gradient(execution: Execution, every: int) -> None:
    layer, network, x = made("delayed")
    layer.truncate = every
    given = x.clone().requires_grad_()
    execution(layer, given, network.ops, {})[-1].sum().backward()
    reached = given.grad.abs().sum(dim=(1, 2)) > 0
    assert reached.tolist() == [t >= (STEPS - 1) // every * every for t in range(STEPS)]


@pytest.mark.parametrize("every", [STEPS, STEPS + 1, 65_535])
def test_a_cut_after_the_end_changes_no_bit(execution: Execution, every: int) -> None:
    layer, network, x = made("remembering")
    whole = results(layer, x, lambda given: execution(layer, given, network.ops, {}))
    layer.truncate = every
    cut = results(layer, x, lambda given: execution(layer, given, network.ops, {}))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


# ---- in parts


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("gradients", [True, False])
def test_in_parts_a_layer_is_equal_bit_for_bit(execution: Execution, name: str, gradients: bool) -> None:
    layer, network, x = made(name)
    trace: dict[str, Tensor] = {}
    whole = layer(x, network.ops, trace)
    carried: dict[str, Tensor] = {}
    outputs = []
    with torch.set_grad_enabled(gradients):
        for part in x.split((1, 4, 6)):
            outputs.append(execution(layer, part, network.ops, carried))
            done = sum(map(len, outputs))
            assert set(carried) == set(layer.states(layer.integers().params))
            for state, value in carried.items():
                assert torch.equal(value, trace[f"hidden.{state}"][done - 1])
                assert not value.requires_grad
    assert torch.equal(torch.cat(outputs), whole)


def test_gradients_in_parts_are_those_of_the_whole_cut_there(execution: Execution) -> None:
    layer, network, x = made("remembering")

    def in_parts(given: Tensor) -> Tensor:
        carried: dict[str, Tensor] = {}
        return torch.cat([execution(layer, part, network.ops, carried) for part in given.split(4)])

    parts = results(layer, x, in_parts)
    assert_equal(parts, results(layer, x, lambda given: with_detaches(layer, network.ops, given, 4)), exact=True)


def test_in_parts_a_network_is_equal_bit_for_bit_and_counts_the_same_operations() -> None:
    layers = a_layer("a", 7, recurrent=True, gain=4.0), a_layer("b", 5, gain=4.0), a_layer("readout", 3, neuron="count")
    network = random_network(*layers, channels=4, maximum=2, seed=1)
    x = torch.from_numpy(random_input(6, 12, 4, 2, 1)).float()
    sent: list[Tensor] = []
    whole = network(x, sent=sent)
    carried: dict[str, dict[str, Tensor]] = {}
    outputs, operations = [], torch.zeros(6)
    for part in x.split((5, 5, 2), dim=1):
        sent_here: list[Tensor] = []
        outputs.append(network(part, sent=sent_here, carried=carried))
        operations += network.operations(sent_here, ends=len(outputs) == 3)
    assert float(whole.detach().std()) > 0
    assert torch.equal(torch.cat(outputs, dim=1), whole)
    assert torch.equal(operations, network.operations(sent))


# ---- training


def run_of(path: Path, readout: str = "li", **training: Any) -> tuple[Run, Dataset]:
    """A run that has not begun, of 20 steps, and what it is to learn."""
    layers = (
        a_layer("first", 8, recurrent=True, gain=4.0), a_layer("second", 6, gain=4.0),
        a_layer("readout", 2, neuron=readout),
    )  # fmt: skip
    config = Config(task=Task(name="npz"), encoder=Direct(steps=20), layers=layers, training=Bptt(batch=16, **training))
    check(config, "net")
    split = Split(random_input(48, 20, 3, 9, 0), np.arange(48) % 2)
    data = Dataset(split, split, classes=2, maximum=9)
    return new_run(path, config, data), data


@pytest.mark.parametrize("readout", ["li", "count"])
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readout: str, penalty: float
) -> None:
    run, data = run_of(tmp_path / "run", readout, truncate=3, penalty=penalty)
    held: set[int] = set()

    def gradients() -> tuple[tuple[float, int], dict[str, Tensor]]:
        def note(tensor: Tensor) -> Tensor:
            held.update([tensor.shape[0]] if tensor.dim() == 3 else [])
            return tensor

        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            returned = batch_gradients(run, data.train, np.arange(16), torch.float64)
        return returned, {name: p.grad.double() for name, p in run.network.named_parameters() if p.grad is not None}

    (loss, *right), whole = gradients()
    assert max(held) == 20  # a part has at least as many steps as all of them
    monkeypatch.setattr("quantal.qat.training.gradients.PART_STEPS", 5)
    (part_loss, *part_right), parts = gradients()
    assert max(held) == (6 if penalty else 2)  # the least multiple of 3 from 5 on; what that leaves at the end
    assert (part_loss, part_right) == (pytest.approx(loss, rel=1e-6), right)
    assert_equal(parts, whole, exact=False)


def test_training_with_a_cut_after_the_end_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for truncate in (0, 20, 19):
        run, data = run_of(tmp_path / str(truncate), truncate=truncate, epochs=2)
        train_until(run, data, 2, Progress(disable=True))
        written.append([(run.path / name).read_bytes() for name in (CHECKPOINT_FILE, METRICS_FILE)])
    assert written[0] == written[1] != written[2]


# ---- configuration


def test_moments_of_all_steps_do_not_go_with_it() -> None:
    config = small_config(a_layer("hidden", 4, norm="layer-batch"), a_layer("readout", 3, neuron="li"))
    with pytest.raises(BadInput) as error:
        check(replace(config, training=replace(config.training, truncate=5)), "net.toml")
    one_line(error, "net.toml", "training: truncate", "norm")


@pytest.mark.parametrize("value", ["-1", "65_536", "2.5", '"all"'])
def test_what_is_no_number_of_steps_is_refused(value: str) -> None:
    text = (
        f'[task]\nname = "digits"\n[[layer]]\nname = "out"\nsize = 10\nneuron = "li"\n[training]\ntruncate = {value}\n'
    )
    with pytest.raises(BadInput) as error:
        loads(text, "net.toml")
    one_line(error, "net.toml", "training: truncate", "integer")
