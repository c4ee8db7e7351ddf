"""Neurons in full precision: equal to snnTorch's, which are their definition, and what those do not have by hand."""

import math
from typing import Any

import pytest
import snntorch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.grids import ShiftGrid
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING, UNQUANTIZED, Params
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.parts.neurons import Neuron
from quantal.qat.config.problems import Problems
from quantal.qat.config.reader import part
from support.layers import a_layer, replace
from support.messages import one_line
from support.torch_networks import small_config

SIZE, SAMPLES, STEPS = 5, 3, 40
CLOSE = 1e-9  # the same sums in another order
SEEDS = st.integers(0, 2**32 - 1)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


PLAIN = Params(threshold=number(1.0), decay=number(0.9), decay_bits=0, grid=UNQUANTIZED)


def run(p: Params, currents: Tensor, neuron: str = "lif", v: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs (steps, …) and every state after each step; v: of the spikes of the step before, beside a bias."""
    row = NEURONS[neuron]
    state = {name: torch.full_like(currents[0], s.init) for name, s in row.states(p).items()}
    outputs, history = [], []
    for current in currents:
        spikes = outputs[-1] if outputs else torch.zeros_like(current)
        output, state = row.step(TorchOps(), current if v is None else current + spikes @ v.t(), state, p)
        outputs.append(output)
        history.append(state)
    return torch.stack(outputs), {name: torch.stack([s[name] for s in history]) for name in state}


def spikes_of(p: Params, *currents: float) -> tuple[list[float], list[float]]:
    """(spikes, membranes) of one neuron."""
    spikes, states = run(p, torch.tensor(currents, dtype=torch.float64)[:, None])
    return spikes[:, 0].tolist(), states["u"][:, 0].tolist()


# ---- snnTorch's neurons

RESETS = {
    ("subtract", True): ("subtract", "delayed"),
    ("zero", True): ("zero", "delayed"),
    ("none", True): ("none", "delayed"),
    ("subtract", False): ("subtract", "snntorch"),
    ("zero", False): ("zero", "immediate"),
    ("none", False): ("none", "immediate"),
}
NEVER_AT_ONCE = ("Lapicque", "RSynaptic", "Alpha")
THEIRS = [
    (name, dense, *kind)
    for name in ("Leaky", "RLeaky", "Lapicque", "Synaptic", "RSynaptic", "Alpha")
    for dense in ((False, True) if name.startswith("R") else (False,))
    for kind in RESETS
    if (kind[1] or name not in NEVER_AT_ONCE) and (name, kind[0]) != ("Alpha", "subtract")
]


def theirs(module: Any, currents: Tensor) -> tuple[Tensor, Tensor]:
    """(spikes, membranes) of a neuron of snnTorch's."""
    recurrent = hasattr(module, "recurrent")
    state, spikes, membranes = [], [], []
    for current in currents:
        with torch.no_grad():
            spike, *after = (value.double() for value in module(current, *state))
        state = [spike, *after] if recurrent else after
        spikes.append(spike)
        membranes.append(after[-1].clone())
    return torch.stack(spikes), torch.stack(membranes)


@pytest.mark.parametrize(("name", "dense", "reset", "delay"), THEIRS)
@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_neuron_of_snntorchs_is_one_here(name: str, dense: bool, reset: str, delay: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)

    def uniform(lo: float, hi: float, *shape: int) -> Tensor:
        return torch.rand(shape or (SIZE,), generator=rng, dtype=torch.float64) * (hi - lo) + lo

    threshold, beta, x = uniform(0.3, 1), uniform(0.1, 1), uniform(-1, 3, STEPS, SAMPLES, SIZE)
    alpha = beta + (1 - beta) * uniform(0.05, 0.9)
    kind, timing = RESETS[reset, delay]
    ours = replace(PLAIN, threshold=threshold, decay=beta, reset=kind, timing=timing)
    if name == "Leaky" and kind == "zero" and delay:
        ours = replace(ours, reset="zero-before")
    options: dict[str, Any] = {"threshold": threshold, "reset_mechanism": reset}
    currents, v, factor, neuron = x, None, number(1.0), "lif"
    if name not in NEVER_AT_ONCE[::2]:
        options["reset_delay"] = delay
    if name == "Lapicque":
        (resistance, capacitance), step = uniform(1, 2, 2), 0.7  # β = 1 − dt / RC, and the input's factor dt / C
        options |= {"R": resistance, "C": capacitance, "time_step": number(step)}
        ours = replace(ours, decay=1 - step / (resistance * capacitance))
        currents = x * step / capacitance
    else:
        options["beta"] = beta
    if name in ("Synaptic", "RSynaptic", "Alpha"):
        options["alpha"] = alpha
        ours = replace(ours, synapse_decay=alpha)
    if name == "Alpha":
        neuron, factor = "alpha", alpha.log() / (beta.log() - alpha.log()) + 1
        ours = replace(ours, threshold=threshold / factor)
    if name.startswith("R"):
        v, bias = uniform(-0.6, 0.6, SIZE, SIZE), uniform(-0.2, 0.2)
        if dense:
            options["linear_features"] = SIZE
            currents = x + bias
        else:
            options |= {"all_to_all": False, "V": v.diag()}
            v = v.diag().diag()
    module = getattr(snntorch, name)(**options)
    if dense:
        module.recurrent.weight.data, module.recurrent.bias.data = v, bias
    spikes, states = run(ours, currents, neuron, v)
    membranes = factor * (states["e"] + states["h"]) if name == "Alpha" else states["u"]
    assume(float((membranes - threshold).abs().min()) > CLOSE)
    expected, expected_membranes = theirs(module, x)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(membranes, expected_membranes, rtol=CLOSE, atol=CLOSE)
    assert 0 < spikes.mean() < 1


def test_a_reset_at_once_as_in_snntorch_does_not_subtract_again_from_what_it_left_above_the_threshold() -> None:
    p = replace(PLAIN, reset="subtract", timing="snntorch")
    spikes, membranes = spikes_of(p, 2.5, 0, 0, 0)
    assert spikes == [1, 0, 0, 0]
    assert membranes == pytest.approx([1.5, 1.35, 1.215, 1.0935])
    spikes, membranes = spikes_of(replace(p, timing="immediate"), 2.5, 0, 0, 0)
    assert spikes == [1, 1, 0, 0]
    assert membranes == pytest.approx([1.5, 0.35, 0.315, 0.2835])


def test_a_recurrent_synaptic_neuron_of_snntorchs_is_never_reset_at_once() -> None:
    """In 1.0.0 reset_delay=False raises, and where it is given a state it does nothing: there is nothing to equal."""
    options: dict[str, Any] = {"alpha": number(0.7), "beta": number(0.9), "V": number(0.2), "all_to_all": False}
    x = torch.full((STEPS, SAMPLES, SIZE), 0.8, dtype=torch.float64)
    with pytest.raises(TypeError, match="NoneType"):
        theirs(snntorch.RSynaptic(**options, reset_delay=False), x)
    zeros = torch.zeros_like(x[0])
    after = [snntorch.RSynaptic(**options, reset_delay=delay)(x[0] * 3, zeros, zeros, zeros) for delay in (True, False)]
    assert all(torch.equal(a, b) for a, b in zip(*after, strict=True))
    assert after[0][0].all()


def test_an_alpha_neuron_that_subtracts_is_refused() -> None:
    """snnTorch's takes the threshold from the excitation alone, and from the membrane the inhibition."""
    layers = a_layer("hidden", 3, neuron="alpha", decay=0.5), a_layer("readout", 3, neuron="li")
    for reset in ("zero", "none"):
        small_config(replace(layers[0], reset=reset), layers[1])
    part(Neuron, {"kind": "alpha", "reset": "subtract"}, ("neuron",), problems := Problems())
    with pytest.raises(BadInput) as error:
        problems.refuse("layer hidden")
    one_line(error, "layer hidden", "neuron: reset", "zero", "none", "subtract")


# ---- what they do not have


@pytest.mark.parametrize(
    ("reset", "timing", "spikes", "membranes"),
    [
        ("subtract", "delayed", [1, 1, 1, 0, 1, 1], [2, 3, 3, 2.5, 4.5, 4.625]),
        ("subtract", "immediate", [1, 1, 1, 0, 1, 1], [1, 1, 0.5, 2.5, 2.625, 2.1875]),
        ("zero", "delayed", [1, 0, 1, 0, 1, 0], [2, 0, 2, 0, 2, 0]),
        ("zero", "immediate", [1, 0, 1, 0, 1, 0], [0, 2, 0, 2, 0, 2]),
        ("zero-before", "delayed", [1, 0, 1, 0, 1, 0], [2, 2, 4, 2, 4, 2]),
        ("none", "delayed", [1, 1, 1, 1, 1, 1], [2, 4, 6, 8, 10, 12]),
        ("none", "immediate", [1, 1, 1, 1, 1, 1], [2, 4, 6, 8, 10, 12]),
    ],
)
def test_each_spike_raises_the_threshold_of_the_steps_after_it(
    reset: str, timing: str, spikes: list[int], membranes: list[float]
) -> None:
    """By 1, which halves at each step. All are sums of powers of two: equal, not close."""
    p = replace(PLAIN, decay=None, reset=reset, timing=timing, adaptation=number(1.0), adaptation_decay=number(0.5))
    got, states = run(p, torch.full((6, 1), 2.0, dtype=torch.float64))
    raised, expected = 0.0, []
    for before in (0, *spikes[:-1]):
        raised = raised / 2 + before
        expected.append(raised)
    assert states["a"][:, 0].tolist() == expected
    assert (got[:, 0].tolist(), states["u"][:, 0].tolist()) == (spikes, membranes)


@pytest.mark.parametrize(("reset", "timing"), [kind for kind in RESETTING if kind[1] != "snntorch"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_refractory_neuron_sends_no_spike_for_so_many_steps_after_one(reset: str, timing: str, steps: int) -> None:
    p = replace(PLAIN, reset=reset, timing=timing, refractory=steps)
    spikes, _ = spikes_of(p, *[10.0] * 31)
    assert [t for t, spike in enumerate(spikes) if spike] == list(range(0, 31, max(steps + 1, 1 + (reset == "zero"))))
    plain, _ = spikes_of(replace(p, refractory=0), *[10.0] * 31)
    assert sum(plain) == (16 if (reset, timing) == ("zero", "delayed") else 31)


@given(seed=SEEDS, steps=st.integers(1, 9), kind=st.sampled_from([k for k in RESETTING if k[1] != "snntorch"]))
@settings(max_examples=30, deadline=None)
def test_what_is_refractory_only_omits_spikes_and_the_resets_that_come_of_them(
    seed: int, steps: int, kind: tuple[str, str]
) -> None:
    x = torch.rand(STEPS, SAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5 - 0.2
    reset, timing = kind
    spikes, states = run(replace(PLAIN, reset=reset, timing=timing, refractory=steps), x)
    for sample in range(SAMPLES):
        u, last = 0.0, -math.inf
        for t in range(STEPS):
            late = last == t - 1 and timing == "delayed"
            u = 0.0 if late and reset == "zero-before" else u
            u = 0.9 * u + float(x[t, sample])
            u -= {"subtract": 1.0, "zero": u}.get(reset, 0.0) if late else 0.0
            fired = u > 1 and t - last > steps
            last = t if fired else last
            u -= {"subtract": 1.0, "zero": u}.get(reset, 0.0) if fired and timing == "immediate" else 0.0
            assert float(spikes[t, sample]) == fired
            assert float(states["u"][t, sample]) == pytest.approx(u, abs=CLOSE)


@given(currents=st.lists(st.integers(-300, 300), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_membrane_that_does_not_leak_is_the_sum_of_its_currents(currents: list[int]) -> None:
    p = Params(None, None, 6, ShiftGrid(0, -(2**15), 2**15 - 1))
    x = torch.tensor(currents, dtype=torch.float64)[:, None]
    assert torch.equal(run(p, x, "li")[0], x.cumsum(0))


def test_the_decay_that_is_nearest_to_1_does_leak() -> None:
    p = Params(None, number(2.0**6 - 1), 6, ShiftGrid(0, -(2**15), 2**15 - 1))
    x = torch.tensor([100.0, 0, 0], dtype=torch.float64)[:, None]
    assert run(p, x, "li")[0][:, 0].tolist() == [100, 98, 96]


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_readout_with_a_synapse_is_one_leaky_filter_after_another(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(STEPS, SAMPLES, SIZE, generator=rng, dtype=torch.float64)
    alpha, beta = torch.rand(2, generator=rng, dtype=torch.float64)
    p = replace(PLAIN, threshold=None, decay=beta, synapse_decay=alpha)
    current = lfilter([1], [1, -float(alpha)], x.numpy(), axis=0)
    expected = torch.from_numpy(lfilter([1], [1, -float(beta)], current, axis=0))
    output, states = run(p, x, "li")
    torch.testing.assert_close(states["i"], torch.from_numpy(current), rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(output, expected, rtol=CLOSE, atol=CLOSE)
    best, _ = run(replace(p, pool="max"), x, "li")
    torch.testing.assert_close(best, expected.cummax(0).values, rtol=CLOSE, atol=CLOSE)


def test_the_gradients_of_a_readout_with_a_synapse_are_those_of_its_equation() -> None:
    """Finite differences, which end at a spike, but a readout sends none."""
    rng = torch.Generator().manual_seed(0)

    def output(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        return run(replace(PLAIN, threshold=None, decay=beta, synapse_decay=alpha), x, "li")[0]

    x = torch.randn(8, 2, 3, generator=rng, dtype=torch.float64)
    decays = torch.rand(2, 3, generator=rng, dtype=torch.float64)
    given = [value.clone().requires_grad_() for value in (x, *decays)]
    assert torch.autograd.gradcheck(output, given)
