"""The fused engine is the torch reading of the step: forward bit for bit, gradients as autograd has them."""

import ctypes
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from conftest import KINDS, THREADS, neuron_options, random_network
from hypothesis import assume, given, settings
from quantal.export.base import toolchain
from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING
from quantal.qat.config.schema import Layer
from quantal.qat.engine import cpu
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from torch import Tensor

READOUT = Layer("readout", 3, neuron="li")


def layer_of(seed: int, channels: int, maximum: int, **options: Any) -> tuple[SpikingLayer, SpikingNetwork]:
    """A layer with those options and every parameter moved, and the network that holds it."""
    layer = Layer("hidden", **{"size": 9, "gain": 3.0, **options})
    with_readout = (layer,) if NEURONS[layer.neuron].readout else (layer, READOUT)
    if layer.weights == "float":
        with_readout = tuple(Layer(**{**vars(one), "weights": "float"}) for one in with_readout)
    network = random_network(*with_readout, channels=channels, maximum=maximum, seed=seed)
    return network.stack[0], network


def has_a_threshold(layer: SpikingLayer) -> bool:
    """Whether its states leave the threshold room; where not, the layer says no."""
    try:
        layer.integers()
    except BadInput:
        return False
    return True


def input_of(seed: int, shape: tuple[int, int, int], maximum: int, rate: float, dtype: torch.dtype) -> Tensor:
    """Integers up to the maximum, a share `rate` of them not 0."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randint(1, maximum + 1, shape, generator=rng)
    return (values * (torch.rand(shape, generator=rng) < rate)).to(dtype)


def both(layer: SpikingLayer, network: SpikingNetwork, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(fused, torch): the output and the gradient of everything, for a random weighting of the output."""
    network.to(x.dtype)
    weighting = torch.randn(*x.shape[:2], layer.config.size, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    results = []
    for record in (None, {}):  # whoever records gets torch's own reading
        layer.zero_grad()
        given_x = x.clone().requires_grad_()
        out = layer(given_x, network.ops, record)
        (out * weighting).sum().backward()
        named = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        results.append({"output": out.detach(), "x": given_x.grad, **named})
    return results[0], results[1]


def assert_equal(fused: dict[str, Tensor], reference: dict[str, Tensor], exact: bool) -> None:
    assert fused.keys() == reference.keys()
    if exact:
        assert torch.equal(fused["output"], reference["output"])
    least = 1e-10 * max(float(value.abs().max()) for value in reference.values())  # what cancels to 0 is noise
    for name, want in reference.items():
        if want.dtype == torch.float64 and not (name == "output" and exact):
            limit = 1e-5 * float(want.abs().max()) + least
            assert float((fused[name] - want).abs().max()) <= limit, name


COMBINATIONS = [
    *(
        {"neuron": neuron, "recurrent": recurrent, "reset": reset, "timing": timing}
        for neuron, recurrent in (("lif", False), ("lif", True), ("count", False))
        for reset, timing in RESETTING
    ),
    *({"neuron": "li", "pool": pool} for pool in ("last", "max")),
    *({"recurrent": recurrent} | kind for kind in KINDS.values() for recurrent in (False, True)),
    {"neuron": "li", "synapse": "exponential", "pool": "max"},
    {"neuron": "li", "decay": 1.0, "bias": False},
    {"neuron": "count", "adaptation": 0.5, "refractory": 1, "synapse": "exponential"},
    *({"neuron": "step", "spikes": spikes} for spikes in (1, 3)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_neuron_is_equal_fused(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer, network = layer_of(3, 6, 1, **options)
    fused, reference = both(layer, network, input_of(2, (30, 19, 6), 1, 0.4, dtype))
    assert float(fused["output"].abs().sum()) > 0
    assert_equal(fused, reference, exact=True)


TABLES = [name for name, table in STATE_QUANTIZERS.items() if table is not None]
KEPT = [(name, bits) for name in STATE_QUANTIZERS for bits in (1, 2, 4, 8) if bits > 1 or name in TABLES]
KEEPING: dict[str, dict[str, Any]] = {
    "delayed": {"recurrent": True},
    "several": {"recurrent": True, "spikes": 2},
    "li": {"neuron": "li"},
    "immediate": {"recurrent": True, "timing": "immediate", "threshold": 0.3, "decay_per": "neuron"},
    "max": {"neuron": "li", "pool": "max"},
    "count": {"neuron": "count", "reset": "zero"},
    "snntorch": {"timing": "snntorch", "recurrent": True},
    "remembering": {
        "adaptation": 0.5, "refractory": 1, "synapse": "exponential", "recurrent": True, "state_range": 8.0,
        "decay_per": "neuron",
    },
    "no-leak": {"decay": 1.0, "reset": "zero-before"},
}  # fmt: skip


TOO_FEW = "shared", 2  # end at 1: nothing but a threshold of 0 lies below, which cannot be subtracted


def keeping_of(state_quantizer: str, states: int, keeping: str) -> dict[str, Any]:
    """The options of a layer that keeps its states so."""
    options = {"state_quantizer": state_quantizer, "states": states} | KEEPING[keeping]
    if (state_quantizer, states) == TOO_FEW and keeping in ("delayed", "remembering"):
        options["reset"] = "zero"
    return options


def may_keep(state_quantizer: str, states: int, keeping: str) -> bool:
    """Whether a configuration may ask for it."""
    if (state_quantizer, states) == TOO_FEW and keeping in ("several", "snntorch"):
        return False
    if keeping == "several":
        return state_quantizer not in TABLES
    if keeping == "remembering":
        return states > 1
    return keeping != "immediate" or states > 1 or state_quantizer in AFTER_RESET


# Each way meets neurons in turn, as compiling takes a second; in Triton's interpreter, test_engine_cuda, it meets all.
@pytest.mark.parametrize(
    ("state_quantizer", "states", "keeping"),
    [
        (*kept, keeping)
        for kept, keeping in zip(KEPT, itertools.cycle(KEEPING), strict=False)
        if may_keep(*kept, keeping)
    ],
)
def test_every_way_to_keep_a_state_is_equal_fused(state_quantizer: str, states: int, keeping: str) -> None:
    layer, network = layer_of(3, 6, 3, **keeping_of(state_quantizer, states, keeping))
    fused, reference = both(layer, network, input_of(2, (12, 19, 6), 3, 0.4, torch.float64))
    assert float(fused["output"].std()) > 0
    if layer.ranges is not None:
        assert (fused["ranges"] != 0).any()
    assert_equal(fused, reference, exact=True)


@st.composite
def any_options(draw: st.DrawFn) -> dict[str, Any]:
    """The options of a layer, of all that a configuration may ask for."""
    neuron = draw(st.sampled_from(list(NEURONS)))
    state_quantizers = list(STATE_QUANTIZERS) if neuron != "alpha" else ["uniform"]
    weights, states = draw(st.sampled_from(list(WEIGHT_QUANTIZERS))), draw(st.sampled_from(state_quantizers))
    tabled = states in TABLES
    bits = draw(st.sampled_from([*(range(1, 9) if tabled else range(2, 17)), "float"]))
    options = {
        "neuron": neuron,
        "recurrent": not (NEURONS[neuron].readout or NEURONS[neuron].stateless) and draw(st.booleans()),
        "pool": draw(st.sampled_from(["last", "max"])) if neuron == "li" else "last",
        "weight_quantizer": weights,
        "weights": draw(st.sampled_from([*WEIGHT_QUANTIZERS[weights][1], "float"])),
        "state_quantizer": states,
        "states": bits,
        "state_gradient": draw(st.sampled_from(["clip", "identity"])) if tabled and states != "dq" else "clip",
        "scale": draw(st.sampled_from(["layer", "row"])),
        "threshold_per": "auto" if tabled else draw(st.sampled_from(["auto", "layer"])),
        "bias": draw(st.booleans()),
        "decay_bits": draw(st.sampled_from([1, 3, 12])),
        "decay_per": draw(st.sampled_from(["neuron", "layer"])),
        "standardize": weights != "maqd" and draw(st.booleans()),
        **draw(neuron_options(neuron, states, bits)),
    }
    options["norm"] = draw(st.sampled_from(["none", "psp"] if NEURONS[neuron].readout or tabled else NORMS))
    return options


def is_exact(layer: SpikingLayer) -> bool:
    """Whether it adds integers: sums of reals in another order may fall on the other side of a threshold.

    Nor is a threshold of 0 asked for, as there is where the grid has no code for another: its surrogate is 10^-6 wide.
    """
    threshold = layer.integers().params.threshold
    fires = threshold is None or bool((threshold > 0).all())
    return fires and "float" not in (layer.config.weights, layer.config.states)


@settings(max_examples=25, deadline=None)
@given(
    any_options(),
    st.tuples(st.integers(1, 40), st.integers(1, 35), st.integers(1, 9)),
    st.sampled_from([1, 16, 255]),
    st.sampled_from([0.02, 0.1, 0.9]),
    st.sampled_from([1.0, 10.0, 1000.0]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_any_layer_is_equal_fused(
    options: dict[str, Any], shape: tuple[int, int, int], maximum: int, rate: float, sharpness: float, training: bool,
    seed: int,
) -> None:  # fmt: skip
    standardized = options["weight_quantizer"] == "maqd" or options["standardize"]
    assume(not standardized or shape[2] > 1)  # of a single weight nothing is left
    layer, network = layer_of(seed, shape[2], maximum, **options)
    assume(has_a_threshold(layer))
    layer.anneal(sharpness, soft=False)
    layer.train(training)
    fused, reference = both(layer, network, input_of(seed, shape, maximum, rate, torch.float64))
    if is_exact(layer):
        assert_equal(fused, reference, exact=True)
    else:
        assert {name: value.shape for name, value in fused.items()} == {n: v.shape for n, v in reference.items()}
        assert all(bool(torch.isfinite(value).all()) for value in fused.values())


@pytest.mark.parametrize("options", [{"recurrent": True}, {"recurrent": True, "reset": "zero", "timing": "immediate"}])
def test_gradients_are_finite_over_a_thousand_steps(options: dict[str, Any]) -> None:
    layer, network = layer_of(4, 6, 1, **options)
    fused, _ = both(layer, network, input_of(5, (1000, 2, 6), 1, 0.3, torch.float32))
    assert all(bool(torch.isfinite(value).all()) for value in fused.values())
    assert all(float(value.abs().max()) > 0 for value in fused.values())


@pytest.mark.parametrize("shape", [(30, 0, 6), (0, 4, 6)])
def test_nothing_in_gives_nothing_out_and_gradients_of_0(shape: tuple[int, int, int]) -> None:
    layer, network = layer_of(3, 6, 1, recurrent=True)
    x = torch.zeros(shape)
    layer(x, network.ops).sum().backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in layer.parameters() if p.grad is not None)


def test_a_type_without_a_kernel_is_left_to_torch() -> None:
    layer, network = layer_of(3, 6, 1)
    x = input_of(2, (5, 3, 6), 1, 0.4, torch.bfloat16)
    assert torch.equal(layer(x, network.ops), layer(x, network.ops, {}))


@pytest.mark.parametrize("rate", [0.05, 0.6])
def test_a_whole_network_is_equal_fused(rate: float) -> None:
    _, network = layer_of(10, 30, 1, recurrent=True)
    x = input_of(11, (17, 40, 30), 1, rate, torch.float64)  # samples outermost, as batches come
    results = []
    for record in (None, {}):
        network.zero_grad()
        output = network(x, record)
        (output**2).sum().backward()
        results.append({"output": output.detach()} | {n: p.grad.clone() for n, p in network.named_parameters()})
    assert_equal(*results, exact=True)


@pytest.mark.parametrize("pool", ["last", "max"])
def test_an_integrator_in_full_precision_has_the_gradients_of_autograd(pool: str) -> None:
    layer, network = layer_of(3, 6, 1, neuron="li", pool=pool, weights="float", states="float")
    assert_equal(*both(layer, network, input_of(2, (30, 19, 6), 1, 0.4, torch.float64)), exact=False)


@pytest.mark.parametrize(
    ("state_quantizer", "states", "kept"),
    [
        ("uniform", 2, 1),
        ("uniform", 8, 1),
        ("uniform", 9, 2),
        ("uniform", 16, 2),
        ("uniform", "float", 4),
        ("dq", 8, 1),
    ],
)
def test_between_forward_and_backward_a_state_takes_its_own_bytes(state_quantizer: str, states: Any, kept: int) -> None:
    layer, network = layer_of(6, 20, 1, recurrent=True, state_quantizer=state_quantizer, states=states)
    x = input_of(7, (25, 16, 20), 1, 0.1, torch.float32)
    sizes: dict[int, int] = {}  # by address: what is kept twice takes its memory once

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (25, 16, 9):
            sizes[tensor.data_ptr()] = tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x, network.ops)
    assert sorted(sizes.values()) == sorted([4, kept])  # the output and the membrane, nothing else


def test_the_number_of_threads_changes_nothing() -> None:
    layer, network = layer_of(6, 20, 1, recurrent=True)
    x = input_of(7, (25, 150, 20), 1, 0.1, torch.float32)
    try:
        cpu.set_threads(1)
        one, _ = both(layer, network, x)
        cpu.set_threads(3)
        two, _ = both(layer, network, x)
    finally:
        cpu.set_threads(THREADS)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_a_compiler_torch_trains_and_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    layer, network = layer_of(8, 6, 1)
    x = input_of(9, (5, 3, 6), 1, 0.5, torch.float32)
    fused, reference = both(layer, network, x)

    def no_compiler() -> list[str]:
        raise toolchain.BadInput("no C compiler")

    monkeypatch.setattr(toolchain, "host_compiler", no_compiler)
    monkeypatch.setattr(cpu, "_compiled", cpu._compiled.__wrapped__)
    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    cpu.available.cache_clear()
    try:
        without, _ = both(layer, network, x)
    finally:
        cpu.available.cache_clear()
    assert capsys.readouterr().err.splitlines() == ["quantal: training in torch, several times slower: no C compiler"]
    assert all(torch.equal(without[name], reference[name]) for name in reference)
    assert torch.equal(without["output"], fused["output"])


def test_a_cache_that_moves_to_another_processor_serves_none_of_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    for processor, made in (("one", 1), ("one", 1), ("another", 2)):
        monkeypatch.setattr(cpu, "_processor", lambda processor=processor: processor)
        cpu._compiled.__wrapped__("int some_code;", False)
        assert len(list(tmp_path.iterdir())) == made


def test_each_target_and_each_compiler_has_code_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[str, ...]] = []

    def compile_host(_: list[Path], out: Path, *, flags: tuple[str, ...]) -> None:
        made.append(flags)
        out.write_bytes(b"")

    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    monkeypatch.setattr(cpu, "compile_host", compile_host)
    monkeypatch.setattr(ctypes, "CDLL", Path)
    for target in ("native", "x86-64", "x86-64-v3"):
        monkeypatch.setenv("QUANTAL_TARGET", target)
        for compiler in ("one", "another", "one"):
            monkeypatch.setattr(toolchain, "host_compiler", lambda compiler=compiler: [compiler])
            cpu._compiled.__wrapped__("int some_code;", False)
    assert len(made) == len(list(tmp_path.iterdir())) == 6
    assert [sum(f"-march={target}" in flags for flags in made) for target in ("native", "x86-64", "x86-64-v3")] == [
        2
    ] * 3
    assert all("-ffp-contract=off" in flags and "-ffast-math" not in flags for flags in made)


# ---- threads


def in_three_threads(work: Callable[[int], Any], count: int) -> None:
    """cpu._each with three threads."""
    try:
        cpu.set_threads(3)
        cpu._each(work, count)
    finally:
        cpu.set_threads(THREADS)


def test_each_is_done_once_by_more_than_one_thread() -> None:
    done: list[int] = []
    all_here = threading.Barrier(3, timeout=30)  # nobody goes on before three are at work

    def work(index: int) -> None:
        if index < 3:
            all_here.wait()
        done.append(index)

    in_three_threads(work, 50)
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError, IndexError, StopIteration])
@pytest.mark.parametrize("where", ["this thread", "a helper"])
def test_after_a_fault_no_thread_works_any_more(where: str, fault: type[BaseException]) -> None:
    """What they write to may be freed then."""
    here, all_here, faulty = threading.get_ident(), threading.Barrier(3, timeout=30), threading.Event()
    at_work, seen = [0], []
    lock = threading.Lock()

    def work(index: int) -> None:
        with lock:
            at_work[0] += 1
            seen.append(index)
        try:
            all_here.wait()
            if (threading.get_ident() == here) == (where == "this thread"):
                faulty.set()
                raise fault(index)
            assert faulty.wait(30)
            time.sleep(0.05)  # goes on for a while after the other has failed
        finally:
            with lock:
                at_work[0] -= 1

    with pytest.raises(fault):
        in_three_threads(work, 50)
    assert at_work == [0]
    assert len(seen) == 3  # nobody took more
    in_three_threads(seen.append, 9)  # and the threads serve again
    assert len(seen) == 3 + 9


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, as it is not in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_waits_for_helpers_however_often_it_is_pressed() -> None:
    main, all_here, pressed = threading.main_thread(), threading.Barrier(2, timeout=30), threading.Event()
    assert threading.current_thread() is main
    ended: list[int] = []

    def press() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.02)
        pressed.set()

    def work(index: int) -> None:
        all_here.wait()
        if threading.current_thread() is main:
            threading.Thread(target=press).start()
            for _ in range(6000):
                time.sleep(0.005)
        assert pressed.wait(30)
        ended.append(index)

    try:
        cpu.set_threads(2)
        with pytest.raises(KeyboardInterrupt):
            cpu._each(work, 2)
    finally:
        cpu.set_threads(THREADS)
    assert len(ended) == 1
