"""The C99 header of a network: what is declared, what implements it, and a golden vector that it tests itself with."""

from dataclasses import dataclass

import numpy as np

from quantal.export import __version__
from quantal.export.base.fixed import Ints
from quantal.export.base.render import render, wrapped
from quantal.export.emit.c.encoder import encoder
from quantal.export.emit.c.layers import functions
from quantal.export.emit.c.memory import (
    arrays,
    initial_values,
    input_word,
    interval_comment,
    records,
    rings,
)
from quantal.export.emit.c.text import c_type, folded
from quantal.export.ir.interpret import Trace
from quantal.export.ir.network import Network
from quantal.export.ir.ops import ARITHMETIC
from quantal.export.proof.intervals import Proven

SELF_TEST_STEPS = 64
_HASH_START, _HASH_FACTOR = 2166136261, 16777619  # FNV-1a, fed 32 bits at a time
_TO_COUNT_TO = 2**16 - 8  # above it a loop over an array would not end where uint_fast16_t has 16 bits


@dataclass(frozen=True)
class SelfTest:
    """A golden vector as text: inputs, 8 a byte where they are spikes, and a hash of every state, spike and output."""

    steps: int
    packed: bool
    input_size: int
    inputs: str
    hashes: str
    start: int = _HASH_START
    factor: int = _HASH_FACTOR


def emit_header(proven: Proven, digest: str, x: Ints, trace: Trace) -> str:
    """NAME.h, with the network's digest. The first sample of the golden vectors (x, trace) becomes its self test."""
    network = proven.network
    layers, initial = functions(proven), initial_values(proven)
    index_type = "uint_fast16_t" if max(size for _, size, _ in initial) < _TO_COUNT_TO else "uint_fast32_t"
    text = render(
        "c/header.h.j2",
        version=__version__,
        digest=digest,
        arithmetic=ARITHMETIC,
        name=network.name,
        NAME=network.name.upper(),
        network=network,
        encoder=encoder(network),
        input_type=c_type(input_word(network)),
        input_comment=interval_comment(network.input_lo, network.input_hi),
        output_comment=interval_comment(*proven.intervals[-1][network.layers[-1].output].hull),
        arrays=[array for layer, values in proven.layers for array in arrays(layer, values).values()],
        rings=[ring for layer in network.layers for ring in rings(layer)],
        records=list(records(proven)),
        initial=initial,
        layers=[(function, function.body(index_type)) for function in layers],
        unrolled=any(product.how.base for function in layers for product in function.products),
        searched=sorted({kind for function in layers for kind in function.searched}),
        index_type=index_type,
        longest=max(len(name) for name in ("network", *(layer.name for layer in layers))),
        test=_self_test(network, x, trace),
    )
    return folded(text)


def _self_test(network: Network, x: Ints, trace: Trace) -> SelfTest:
    hashes = _step_hashes(network, trace)
    shown = x[0, : len(hashes)].reshape(-1)
    packed = network.input_hi == 1 and network.input_lo == 0
    sample = np.packbits(shown.astype(np.uint8), bitorder="little").tolist() if packed else shown.tolist()
    words = wrapped(hashes).replace(",", "u,") + "u"
    return SelfTest(len(hashes), packed, len(sample), wrapped(sample), words)


def _step_hashes(network: Network, trace: Trace) -> list[int]:
    """For each step of the first sample, FNV-1a over all records and the output, as 32-bit words."""
    hashes = []
    for t in range(min(SELF_TEST_STEPS, trace["output"].shape[1])):
        value = _HASH_START
        for name in (*(name for layer in network.layers for name, _ in layer.records()), "output"):
            for word in trace[name][0, t].tolist():
                value = ((value ^ (word & 0xFFFFFFFF)) * _HASH_FACTOR) & 0xFFFFFFFF
        hashes.append(value)
    return hashes
