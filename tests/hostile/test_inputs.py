"""What enters a network: integers that it was made for, or one line of refusal, whatever reads them."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.qat.engine import cpu, cuda
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.training import saf
from quantal.qat.training.warm_start import warm_start
from support.layers import a_layer
from support.messages import one_line
from support.networks import write
from support.programs import random_program
from support.torch_networks import random_input, random_network

CHANNELS, MAXIMUM = 6, 3
READOUT = a_layer("readout", 3, neuron="li")
FLOAT: dict[str, Any] = {"weights": "float", "states": "float"}


def network_of(**options: Any) -> SpikingNetwork:
    """A small network, as dense as its options say."""
    hidden = a_layer("hidden", 8, **{"gain": 3.0, **options})
    readout = a_layer("readout", 3, neuron="li", **{k: options[k] for k in FLOAT if k in options})
    return random_network(hidden, readout, channels=CHANNELS, maximum=MAXIMUM, seed=1)


def good() -> Tensor:
    return torch.from_numpy(random_input(4, 5, CHANNELS, MAXIMUM, 0)).float()


def with_value(value: float) -> Tensor:
    """Good but for one value, not the first."""
    x = good()
    x[2, 3, 4] = value
    return x


WRONG: dict[str, tuple[Tensor, tuple[str, ...]]] = {
    "a channel more": (torch.ones(4, 5, CHANNELS + 1), ("6 inputs", "(4, 5, 7)")),
    "a channel less": (torch.ones(4, 5, CHANNELS - 1), ("6 inputs", "(4, 5, 5)")),
    "one sample": (torch.ones(5, CHANNELS), ("6 inputs", "(5, 6)")),
    "no step": (torch.ones(4, 0, CHANNELS), ("steps from 1", "(4, 0, 6)")),
    "int64": (good().long(), ("float32 or float64", "got int64")),
    "uint8": (good().byte(), ("float32 or float64", "got uint8")),
    "bool": (good() > 0, ("float32 or float64", "got bool")),
    "float16": (good().half(), ("float32 or float64", "got float16")),
    "bfloat16": (good().bfloat16(), ("float32 or float64", "got bfloat16")),
    "complex": (good().to(torch.complex64), ("float32 or float64", "got complex64")),
    "a fraction": (with_value(0.5), ("integers 0..3", "got 0.5", "sample 2, step 3, channel 4")),
    "NaN": (with_value(float("nan")), ("integers 0..3", "got nan", "sample 2, step 3, channel 4")),
    "infinity": (with_value(float("inf")), ("integers 0..3", "got inf", "sample 2, step 3, channel 4")),
    "below 0": (with_value(-1), ("integers 0..3", "got -1", "sample 2, step 3, channel 4")),
    "above the maximum": (with_value(4), ("integers 0..3", "got 4", "sample 2, step 3, channel 4")),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {},
    "recurrent": {"recurrent": True},
    "float": {"recurrent": True, **FLOAT},
    "norm": {"norm": "batch"},
}
PASSES: dict[str, Callable[[SpikingNetwork, Tensor], Any]] = {
    "fused": lambda network, x: network(x),
    "recorded": lambda network, x: network(x, {}),
    "sent": lambda network, x: network(x, sent=[]),
    "carried": lambda network, x: network(x, carried={}),
    "training": lambda network, x: network.train()(x),
    "logits": lambda network, x: network.logits(x),
    "begin_norms": lambda network, x: network.begin_norms(x),
    "online": lambda network, x: saf.gradients(network, x, lambda logits: logits.sum(), every_step=True),
    "warm start": lambda network, x: warm_start(network_of(recurrent=True), network, x, "mse", final=True),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("which", NETWORKS)
def test_a_network_refuses_what_it_was_not_made_for(which: str, wrong: str) -> None:
    """And is as it was: no moment has moved."""
    x, words = WRONG[wrong]
    for way, run in PASSES.items():
        network = network_of(**NETWORKS[which])
        before = {name: value.clone() for name, value in network.state_dict().items()}
        if way == "warm start" and which != "float":
            continue
        with pytest.raises(BadInput) as error:
            run(network, x)
        one_line(error, "input: ", *words)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), way


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_that_ride_in_floats_pass_up_to_both_ends(dtype: torch.dtype) -> None:
    network, x = network_of(), good().to(dtype)
    assert (float(x.min()), float(x.max())) == (0, MAXIMUM)
    assert torch.equal(network(x), network(x, {}))
    assert torch.equal(network(x[:0]), network(x)[:0])
    later = torch.cat([x, x], dim=1)[:, 5:]  # no row beside the next
    assert torch.equal(network(later), network(x))
    assert torch.equal(network(x.transpose(1, 2).contiguous().transpose(1, 2)), network(x))
    for kind in (np.uint8, np.uint16, np.int64):  # as data come
        trace = hard_trace(network, good().numpy().astype(kind), dtype)
        assert np.array_equal(trace["output"], network(x).detach().numpy())
    with pytest.raises(BadInput):
        hard_trace(network, good().numpy() + 0.5, dtype)
    given = x.clone().requires_grad_()
    network(given).sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None


@pytest.mark.parametrize("compiled", [True, False])
def test_a_wrong_value_is_found_wherever_it_is(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are looked at a few at a time, by more than one thread, compiled or in torch."""
    if not compiled:
        monkeypatch.setattr(cpu, "available", lambda: False)
    network = network_of()
    x = torch.zeros(70, 400, CHANNELS)
    network.entering(x)
    for place in ((0, 0, 0), (33, 399, 0), (69, 399, CHANNELS - 1)):
        for value in (0.25, 1e-30, -1e-30, 2.9999998, 3.0000002, -1, 4, 2.0**31, -(2.0**63), torch.inf, torch.nan):
            x[place] = value
            for given in (x, x.double(), x.mT.contiguous().mT):
                with pytest.raises(BadInput) as error:
                    network.entering(given)
                one_line(error, "sample {}, step {}, channel {}".format(*place))
            network.entering(x[:, 1:399])
        for value in (0.0, -0.0, 1, 3):
            x[place] = value
            network.entering(x)


@pytest.mark.parametrize("which", [cpu, cuda], ids=lambda module: module.__name__)
@pytest.mark.parametrize("options", [{}, {"recurrent": True}, {"state_quantizer": "aligned", "states": 4}], ids=str)
def test_an_engine_reads_nothing_that_is_not_there(
    options: dict[str, Any], which: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls it: each of its tensors a row shorter, a row longer, in another float, or away."""
    network, taken = network_of(**options), []
    ordinary, start = cpu.time_loop, which.time_loop

    def noted(*given: Any) -> Tensor:
        taken.append(given)
        return ordinary(*given)

    monkeypatch.setattr(cpu, "time_loop", noted)
    network(good())
    plan, x, codes, recurrent, tables, grid, carried = taken[0]
    assert (recurrent is not None) == options.get("recurrent", False)
    assert len(grid) == 4 * ("state_quantizer" in options)

    def refused(x: Any = x, codes: Any = codes, recurrent: Any = recurrent, **other: Any) -> None:
        given = {"tables": tables, "grid": grid, "carried": dict(carried), **other}
        with pytest.raises(BadInput) as error:
            start(plan, x, codes, recurrent, given["tables"], given["grid"], given["carried"])
        one_line(error, "expected")

    def changed(tensor: Tensor) -> list[Tensor]:
        longer = functional.pad(tensor, (0, 1)) if tensor.ndim else tensor[None]
        return [longer, tensor[..., :-1] if tensor.ndim else tensor[None], tensor.double(), tensor.half()]

    for wrong in changed(x):
        refused(x=wrong)
    for wrong in [*changed(codes), functional.pad(codes, (0, 0, 0, 1)), codes[:-1], None]:
        refused(codes=wrong)
    if recurrent is not None:
        for wrong in [*changed(recurrent), recurrent[:-1], None]:
            refused(recurrent=wrong)
    for wrong in changed(tables[0]):
        if wrong.numel() != 1 or wrong.dtype != x.dtype:
            refused(tables=[wrong, *tables[1:]])
    for place, part in enumerate(grid):
        for wrong in changed(part):
            refused(grid=[*grid[:place], wrong, *grid[place + 1 :]])
    for name, state in carried.items():
        for wrong in [*changed(state), state[:-1]]:
            refused(carried=dict(carried) | {name: wrong})


def test_a_layer_that_is_given_too_many_inputs_reads_no_weights_beyond_its_own() -> None:
    layer, network = network_of().stack[0], network_of()
    with pytest.raises(BadInput) as error:
        layer(torch.ones(5, 4, CHANNELS + 1), network.ops)
    one_line(error, "codes: expected (8, 7)", "got (8, 6)")


def test_the_interpreter_and_the_simulator_take_integers_alone(tmp_path: Path) -> None:
    network = random_program(0)
    x = np.zeros((2, 3, network.inputs), np.int64) + max(network.input_lo, 0)
    build = write(network, tmp_path / "build", "made", x)
    module: dict[str, Any] = {"__name__": "simulator"}
    exec(build.simulator.read_text(encoding="utf-8"), module)
    expected = interpret.run(network, x)
    for whole in (x, x.astype(np.int8), x.astype(np.uint16), x.tolist()):
        trace = module["run"](whole)
        assert all(np.array_equal(trace[name], values) for name, values in expected.items())
    wrong = [x + 0.5, x.astype(np.float64), x.astype(np.float16), x.astype(complex), x.astype(object), x.astype(str)]
    for refused in (*wrong, x[:, :0], x[0], x[..., 1:], x + 2**40):
        with pytest.raises(ValueError, match=r"^expected integers \(samples, steps from 1, \d+\) in \[") as error:
            module["run"](refused)
        assert len(str(error.value).splitlines()) == 1
        with pytest.raises(BadInput) as bad:
            interpret.run(network, refused)
        one_line(bad, "expected integers (samples, steps from 1, ")
