"""The test program beside the header: it replays golden vectors, streams samples, and calls each function by itself."""

from quantal.export import __version__
from quantal.export.base.render import render
from quantal.export.emit.c.encoder import encoder
from quantal.export.emit.c.memory import records, rings
from quantal.export.emit.c.text import folded
from quantal.export.proof.intervals import Proven
from quantal.export.verify.probes import FILLINGS, GUARD, macros


def emit_test(proven: Proven, digest: str) -> str:
    """NAME_test.c: runs the self test, or streams steps; built without an operating system it only offers symbols."""
    network = proven.network
    kept, lasting = list(records(proven)), [ring for layer in network.layers for ring in rings(layer)]
    known = macros(network, digest, f"quantal {__version__}")
    text = render(
        "c/test.c.j2",
        version=__version__,
        name=network.name,
        NAME=network.name.upper(),
        records=kept,
        record_bytes=sum(record.bytes for record in kept) + 4 * network.outputs,
        rings=lasting,
        ring_bytes=sum(ring.bytes for ring in lasting),
        encoder=encoder(network),
        macros=known,
        macro_bytes=sum(4 if isinstance(value, int) else 4 + len(value) for value in known.values()),
        fillings=FILLINGS,
        guard=GUARD,
    )
    return folded(text)
