"""What one training step costs: forward, backward and Adam, quantal beside other frameworks, interleaved in one run.

quantal trains with 4-bit weights and 8-bit states; `snntorch_squat` is the published recipe of stateful quantization
(snnTorch's state_quant with 8 bits, Brevitas' QuantLinear with 4); all others are in float32. `plain` is the loop that
a careful user writes in torch, the input's product taken for all steps at once. Every network has the same layers of
leaky integrate-and-fire neurons, a leaky-integrator readout and cross entropy on its last step.

Each contender is a process of its own, which no other's threads slow down, and one at a time works. In each round each
takes one step to settle, then three that count; a slow one takes only one that counts, a very slow one not in every
round. All are pinned to as many cores as there may be threads, where the system can: JAX takes its number of threads
from that. The cost of quantal depends on how many neurons spike, that of the others does not: how many do in quantal
and in plain is said below the table. Measure on an idle machine: torch's threads spin for each other, and where others
take cores a step may take a hundred times as long.

The peers come with `pip install 'quantal[bench]'`; those that are missing are named and left out.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantal.qat.config import config_file
from quantal.qat.engine import cpu
from quantal.qat.network.network import SpikingNetwork

Step = Callable[[], None]
BETA = 0.9
GAIN = 3.0  # of the first weights, as in quantal's presets: with 1 hardly any hidden neuron would spike at first
SETTLED = 3  # steps that count in a round
SLOW, SHARE = 300, 20_000  # ms: a step of a slow contender, and all steps that count of a contender
RATES: dict[str, Callable[[], float]] = {}  # by contender: what share of its hidden neurons spike, mean over all steps
# sizes of the layers, whether hidden layers are recurrent, batch, steps
NETS = {"rsnn": ((700, 256, 20), True, 32, 100), "ff": ((784, 512, 512, 10), False, 128, 25)}


def torch_step(module: nn.Module, forward: Callable[[], Tensor], y: Tensor, gain: float = GAIN) -> Step:
    """One step of Adam on the cross entropy of forward(), the weights multiplied by `gain` at first."""
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    with torch.no_grad():
        for weight in (p for p in module.parameters() if p.dim() == 2):
            weight *= gain

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(forward(), y).backward()
        optimizer.step()

    return step


def quantal(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """quantal: 4-bit weights, 8-bit states; the threads are its engine's, as in its own training."""
    cpu.set_threads(torch.get_num_threads())
    torch.set_num_threads(1)
    own = {"recurrent": recurrent, "neuron": {"decay": BETA}, "weights": {"gain": GAIN}}
    hidden = [{"name": f"hidden{i}", "size": n, **own} for i, n in enumerate(sizes[1:-1])]
    readout = {"name": "readout", "size": sizes[-1], "neuron": {"kind": "li", "decay": BETA}}
    document = {"task": {"name": "npz"}, "encoder": {"steps": x.shape[1]}, "layer": [*hidden, readout]}
    network = SpikingNetwork(config_file.made(document, "train_step.py"), sizes[0], 1)
    step = torch_step(network, lambda: network.logits(x), y, gain=1.0)

    def projected() -> None:
        step()
        network.project()

    @torch.no_grad()
    def rate() -> float:
        record: dict[str, Tensor] = {}
        network(x, record)
        return float(torch.cat([record[f"{layer['name']}.spike"] for layer in hidden], dim=2).mean())

    RATES["quantal"] = rate
    return projected


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (u,) = ctx.saved_tensors
        return grad / (1 + 5 * u.abs()) ** 2


def plain(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """A plain torch loop in float32, the input's product hoisted out of time."""
    linear = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
    back = nn.ModuleList(nn.Linear(n, n, bias=False) for n in sizes[1:-1] if recurrent)

    def forward(spikes: list[Tensor] | None = None) -> Tensor:
        value = x.transpose(0, 1)
        for i, layer in enumerate(linear):
            currents = layer(value)
            u = torch.zeros_like(currents[0])
            s = torch.zeros_like(u)
            out = []
            for current in currents:
                if i < len(linear) - 1:
                    u = BETA * u + current + (back[i](s) if recurrent else 0) - s.detach()
                    s = _Spike.apply(u - 1)
                    out.append(s)
                else:
                    u = BETA * u + current
            value = torch.stack(out) if out else u
            if spikes is not None and out:
                spikes.append(value)
        return value

    @torch.no_grad()
    def rate() -> float:
        spikes: list[Tensor] = []
        forward(spikes)
        return float(torch.cat(spikes, dim=2).mean())

    RATES["plain"] = rate
    return torch_step(nn.ModuleList([linear, back]), forward, y)


def snntorch(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """snnTorch in float32."""
    import snntorch as snn

    return _snntorch(snn, nn.Linear, {}, sizes, recurrent, x, y)


def snntorch_squat(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """snnTorch with 8-bit state_quant and Brevitas' 4-bit QuantLinear."""
    import brevitas.nn as qnn
    import snntorch as snn
    from snntorch.functional import quant

    def linear(a: int, b: int, bias: bool = True) -> nn.Module:
        return qnn.QuantLinear(a, b, bias=bias, weight_bit_width=4)

    options = {"state_quant": quant.state_quant(num_bits=8, uniform=True, threshold=1.0)}
    return _snntorch(snn, linear, options, sizes, recurrent, x, y)


def _snntorch(snn, linear, options, sizes, recurrent, x, y) -> Step:  # type: ignore[no-untyped-def]
    layers = nn.ModuleList(linear(a, b) for a, b in itertools.pairwise(sizes))
    neurons = nn.ModuleList()
    for n in sizes[1:-1]:
        if recurrent:
            neuron = snn.RLeaky(beta=BETA, linear_features=n, **options)
            neuron.recurrent = linear(n, n)
        else:
            neuron = snn.Leaky(beta=BETA, **options)
        neurons.append(neuron)
    neurons.append(snn.Leaky(beta=BETA, reset_mechanism="none", **options))

    def forward() -> Tensor:
        states = [neuron.reset_mem() for neuron in neurons]
        membrane = x.new_zeros(())
        for t in range(x.shape[1]):
            value = x[:, t]
            for i, (layer, neuron) in enumerate(zip(layers, neurons, strict=True)):
                if isinstance(neuron, snn.RLeaky):
                    value, membrane = neuron(layer(value), *states[i])
                    states[i] = (value, membrane)
                else:
                    value, membrane = neuron(layer(value), states[i])
                    states[i] = membrane
        return membrane

    return torch_step(nn.ModuleList([layers, neurons]), forward, y)


def norse(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """Norse in float32: LIFRecurrentCell or linear layers with LIFCell, a leaky integrator."""
    import norse.torch as norse_torch

    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [norse_torch.LIFRecurrentCell(a, b)] if recurrent else [nn.Linear(a, b), norse_torch.LIFCell()]
    network = norse_torch.SequentialState(*layers, nn.Linear(sizes[-2], sizes[-1]), norse_torch.LICell())

    def forward() -> Tensor:
        state, out = None, x.new_zeros(())
        for t in range(x.shape[1]):
            out, state = network(x[:, t], state)
        return out

    return torch_step(network, forward, y)


def spikingjelly(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """SpikingJelly in float32, step by step where it is recurrent, else all steps at once."""
    from spikingjelly.activation_based import functional as jelly
    from spikingjelly.activation_based import layer, neuron, surrogate

    def lif() -> nn.Module:
        return neuron.LIFNode(tau=1 / (1 - BETA), decay_input=False, v_reset=None, surrogate_function=surrogate.ATan())

    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes[:-1]):
        parts.append(layer.Linear(a, b))
        cell = lif()
        parts.append(layer.LinearRecurrentContainer(cell, in_features=b, out_features=b) if recurrent else cell)
    integrator = neuron.LIFNode(tau=1 / (1 - BETA), decay_input=False, v_threshold=1e9, v_reset=None)
    parts += [layer.Linear(sizes[-2], sizes[-1]), integrator]
    network = nn.Sequential(*parts)
    mode = "s" if recurrent else "m"
    jelly.set_step_mode(network, mode)

    def forward() -> Tensor:
        jelly.reset_net(network)
        if mode == "m":
            network(x.transpose(0, 1))
        else:
            for t in range(x.shape[1]):
                network(x[:, t])
        membrane: Tensor = integrator.v
        return membrane

    return torch_step(network, forward, y)


def jax(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """JAX in float32: a jitted step over lax.scan, the first product hoisted, Adam written out."""
    import jax as j
    import jax.numpy as jnp

    @j.custom_jvp
    def spike(u):  # type: ignore[no-untyped-def]
        return (u > 0).astype(u.dtype)

    @spike.defjvp
    def _(primals, tangents):  # type: ignore[no-untyped-def]
        (u,), (du,) = primals, tangents
        return spike(u), du / (1 + 5 * jnp.abs(u)) ** 2

    keys = iter(j.random.split(j.random.PRNGKey(0), 16))

    def matrix(a: int, b: int):  # type: ignore[no-untyped-def]
        return j.random.uniform(next(keys), (a, b), minval=-GAIN, maxval=GAIN) / a**0.5

    pairs = list(itertools.pairwise(sizes))
    params = {
        "w": [matrix(a, b) for a, b in pairs],
        "v": [matrix(n, n) for n in sizes[1:-1]] if recurrent else [],
        "b": [jnp.zeros(b) for _, b in pairs],
    }
    xs, ys = jnp.asarray(x.transpose(0, 1).numpy()), jnp.asarray(y.numpy())

    def loss(p):  # type: ignore[no-untyped-def]
        value = xs
        for i in range(len(pairs) - 1):

            def tick(carry, current, i=i):  # type: ignore[no-untyped-def]
                u, s = carry
                u = BETA * u + current + (s @ p["v"][i] if recurrent else 0) - j.lax.stop_gradient(s)
                s = spike(u - 1)
                return (u, s), s

            zero = jnp.zeros((xs.shape[1], sizes[i + 1]))
            _, value = j.lax.scan(tick, (zero, zero), value @ p["w"][i] + p["b"][i])
        currents = value @ p["w"][-1] + p["b"][-1]
        u, _ = j.lax.scan(lambda u, c: (BETA * u + c, None), jnp.zeros_like(currents[0]), currents)
        return -jnp.take_along_axis(j.nn.log_softmax(u), ys[:, None], 1).mean()

    @j.jit
    def update(p, m, v, n):  # type: ignore[no-untyped-def]
        g = j.grad(loss)(p)
        m = j.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = j.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        p = j.tree.map(lambda p, m, v: p - 1e-3 * (m / (1 - 0.9**n)) / (jnp.sqrt(v / (1 - 0.999**n)) + 1e-8), p, m, v)
        return p, m, v

    zeros = j.tree.map(jnp.zeros_like, params)
    held = [params, zeros, zeros, 0]

    def step() -> None:
        held[3] += 1
        held[:3] = j.block_until_ready(update(held[0], held[1], held[2], held[3]))

    return step


def spyx(sizes: tuple[int, ...], recurrent: bool, x: Tensor, y: Tensor) -> Step:
    """Spyx in float32: its scan over time and its jitted step, Optax' Adam; decays are not learned, as in its peers."""
    import jax as j
    import optax
    from flax import nnx
    from spyx import axn, optimize
    from spyx import nn as snn

    rngs, cell = nnx.Rngs(0), snn.RLIF if recurrent else snn.LIF
    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [nnx.Linear(a, b, rngs=rngs), cell((b,), beta=BETA, activation=axn.superspike(5), rngs=rngs)]
    layers += [nnx.Linear(sizes[-2], sizes[-1], rngs=rngs), snn.LI((sizes[-1],), beta=BETA, rngs=rngs)]
    for neuron in layers[1::2]:
        neuron.beta = nnx.Variable(neuron.beta[...])
    model = snn.Sequential(*layers)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    def loss(model, x, y):  # type: ignore[no-untyped-def]
        return optax.softmax_cross_entropy_with_integer_labels(snn.run(model, x)[0][-1], y).mean()

    update = optimize.make_train_step(loss)
    xs, ys = j.numpy.asarray(x.transpose(0, 1).numpy()), j.numpy.asarray(y.numpy())

    def step() -> None:
        j.block_until_ready((update(model, optimizer, xs, ys), nnx.state(model)))

    return step


CONTENDERS = {
    f.__name__: f for f in (quantal, plain, snntorch_squat, snntorch, norse, spikingjelly, jax, spyx)
}  # the first is what ratios are taken to


def timed(step: Step) -> float:
    """The milliseconds that a step takes."""
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def serve(pipe: Connection, name: str, chosen: argparse.Namespace) -> None:
    """A contender's process: says what is missing, then takes as many steps as asked and answers how long each took.

    Asked for none, it answers how many hidden neurons spike, where that is at hand.
    """
    torch.set_num_threads(chosen.threads)
    sizes, recurrent, batch, steps = NETS[chosen.net]
    rng = torch.Generator().manual_seed(0)
    x = (torch.rand(batch, chosen.steps or steps, sizes[0], generator=rng) < chosen.rate).float()
    y = torch.randint(sizes[-1], (batch,), generator=rng)
    torch.manual_seed(0)
    try:
        step = CONTENDERS[name](sizes, recurrent, x, y)
    except ImportError as error:
        pipe.send(str(error))
        return
    pipe.send("")
    with contextlib.suppress(EOFError):  # the table is printed
        while True:
            count = pipe.recv()
            pipe.send([timed(step) for _ in range(count)] if count else RATES[name]() if name in RATES else None)


def main() -> None:
    """Times the contenders in turn, round after round, and prints medians, spreads and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=list(NETS), default="rsnn")
    parser.add_argument("--steps", type=int, help="instead of the network's own number of steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.02, help="share of inputs that spike at a step")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="may be repeated")
    parser.add_argument("--json", action="store_true", help="end with one object of median milliseconds by name")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.threads])
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in dict.fromkeys(chosen.only or CONTENDERS):
        pipes[name], other = context.Pipe()
        context.Process(target=serve, args=(other, name, chosen), daemon=True).start()
        other.close()
    missing = {name: message for name, pipe in pipes.items() if (message := pipe.recv())}
    for name, message in missing.items():
        print(f"{name}: left out, {message}", file=sys.stderr)
    ready = [name for name in pipes if name not in missing]
    if not ready:
        parser.error("none of these is installed")

    def ask(name: str, count: int):  # type: ignore[no-untyped-def]
        pipes[name].send(count)
        return pipes[name].recv()

    first_rates = {name: ask(name, 0) for name in ready}
    pace = {name: ask(name, 1)[0] for name in ready}  # compiles too
    times: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(chosen.rounds):
        for name in ready:
            if sum(times[name]) > SHARE * number / chosen.rounds:
                continue
            settling = ask(name, 1)
            pace[name] = min(pace[name], *settling)
            times[name] += settling if pace[name] > SLOW else ask(name, SETTLED)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = ready[0]
    _, _, batch, steps = NETS[chosen.net]
    title = f"{chosen.net}, {chosen.steps or steps} steps, batch {batch}, {chosen.threads} threads"
    print(f"| {title} | ms | min – max | to {first} |")
    print("|---|---|---|---|")
    for name, values in times.items():
        spread = f"{min(values):.1f} – {max(values):.1f}"
        print(f"| {name} | {medians[name]:.1f} | {spread} | {medians[name] / medians[first]:.2f} |")
    for name, rate in first_rates.items():
        if rate is not None:
            print(f"{name}: {rate:.1%} of hidden neurons spike at a step, after training {ask(name, 0):.1%}.")
    if chosen.json:
        print(json.dumps({name: round(value, 3) for name, value in medians.items()}))


if __name__ == "__main__":
    main()
