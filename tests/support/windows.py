"""Integer networks of planes: convolutions, pools, and delays of them."""

import numpy as np

from quantal.export.base.windows import Window
from quantal.export.ir.fold import Folder
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.proof.intervals import find_invariants

WINDOWS: dict[str, tuple[Window, int, int]] = {  # window, groups, channels out
    "plane": (Window((1, 5, 6), (3, 2), (1, 1), (0, 0)), 1, 3),
    "strided": (Window((2, 6, 5), (3, 3), (2, 1), (1, 2)), 1, 4),
    "grouped": (Window((4, 4, 4), (2, 2), (1, 2), (1, 0)), 2, 8),
    "depthwise": (Window((3, 4, 3), (3, 3), (1, 1), (1, 1)), 3, 3),
    "line": (Window((2, 1, 11), (1, 4), (1, 3), (0, 2)), 1, 5),
    "everything": (Window((3, 3, 4), (3, 4), (1, 1), (0, 0)), 1, 6),
}


def windowed(case: str, bits: int, lo: int, hi: int, seed: int) -> Network:
    """Convolutions with and without levels, a pool of their spikes, delays of them, and a layer that reads them all."""
    rng = np.random.default_rng(seed)
    window, groups, channels = WINDOWS[case]
    reach = 1 << (bits - 1)
    size, levels = (
        channels * window.positions,
        tuple(sorted(rng.choice(np.arange(-200, 201), 2**bits, replace=False).tolist())),
    )

    def drawn(*shape: int) -> np.ndarray:
        return rng.integers(-reach, max(reach, 2), shape).astype(np.int16)

    def fired(ops: Folder, current: int, limit: int) -> tuple[int, int]:
        """(spike, membrane) of neurons with a threshold a channel."""
        level = ops.add(ops.shr(ops.state("u"), 1), current)
        thresholds = ops.table(rng.integers(0, limit, channels).tolist(), "threshold")
        return ops.gt(level, thresholds), ops.clamp(level, -1000, 1000)

    ops = Folder()
    kernels = {"plain": drawn(channels, window.shape[0] // groups * window.kernel[0] * window.kernel[1])}
    kernels["coded"] = rng.integers(0, 2**bits, kernels["plain"].shape).astype(np.int16)
    x = ops.input("input")
    current = ops.add(ops.conv("plain", x, window, groups), ops.conv("coded", x, window, groups, levels))
    spike, u = fired(ops, current, 8 * max(abs(lo), hi))
    states = (StateVar("u", 0, -1000, 1000, u), StateVar("past", 0, 0, 1, spike, delay=2))
    image = Layer("image", size, {}, tuple(ops.ops), states, kernels, spike, "spike")

    pool = Window((channels, *window.out), (min(2, window.out[0]), min(3, window.out[1])), (1, 2), (0, 0))
    ops = Folder()
    total = ops.sumpool(ops.input("image"), pool)
    pooled = Layer("pooled", channels * pool.positions, {}, tuple(ops.ops), (), {}, total, "sum")

    ops = Folder()
    now, old = ops.input("image"), ops.state("line")
    line = Layer("late", size, {}, tuple(ops.ops), (StateVar("line", 1, 0, 1, now, delay=3),), {}, old, "spike")

    ops = Folder()  # its own spikes come back three steps late, by a convolution of the plane that they are
    plane = Window((channels, *window.out), (1, 1), (1, 1), (0, 0))
    weights = {"direct": drawn(size, size), "summed": drawn(size, channels * pool.positions)}
    weights |= {"back": drawn(channels, channels)}
    current = ops.add(ops.matvec("direct", ops.input("late")), ops.matvec("summed", ops.input("pooled")))
    current = ops.add(ops.add(current, ops.conv("back", ops.state("sent"), plane, 1)), ops.input("image"))
    spike, u = fired(ops, current, 4)
    states = (StateVar("u", 0, -1000, 1000, u), StateVar("sent", 0, 0, 1, spike, delay=3))
    deep = Layer("deep", size, {}, tuple(ops.ops), states, weights, spike, "spike")

    ops = Folder()
    total = ops.add(ops.matvec("w", ops.input("deep")), ops.matvec("v", ops.input("pooled")))
    weights = {"w": drawn(4, size), "v": drawn(4, channels * pool.positions)}
    out = Layer("out", 4, {}, tuple(ops.ops), (), weights, total, "sum")
    return find_invariants(Network("windows", window.size, lo, hi, {}, (image, pooled, line, deep, out)))
