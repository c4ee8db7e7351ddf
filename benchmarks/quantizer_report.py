"""The tables and plots of quantizer_study.csv: mean ± standard deviation over seeds, in percent.

python benchmarks/quantizer_report.py            prints the tables, which stand in docs/results
python benchmarks/quantizer_report.py --plots    draws a plot a task, too
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable

from quantizer_study import AT_ONCE, GRIDS, SETTINGS, STUDY, UNCUT
from study import cell, numbers, table, write_figure

BITS = ("8", "4", "3", "2")
FULL = ("fp", "float", "lsq", "float", "uniform")
WAYS = ("ptq-gpfq", "state-qat-gpfq", "weight-qat-mse", "both")
SQUAT = ("squat", "squat-threshold")
OURS = f"aligned{AT_ONCE}"
Seeds = list[dict[str, str]]
Key = tuple[str, ...]


def _found() -> dict[Key, Seeds]:
    rows: dict[Key, Seeds] = defaultdict(list)
    for row in STUDY:
        names = ("task", "method", "weight_bits", "weight_quantizer", "state_bits", "state_quantizer")
        rows[tuple(row[name] for name in names)].append(row)
    return rows


ROWS = _found()
"""The rows of all seeds, by everything else: (task, method, weight bits, quantizer, state bits, quantizer)."""


def both(bits: str, grid: str, weights: str = "lsq") -> Key:
    """The key, but for the task, of weights and states trained at one width."""
    return ("both", bits, weights, bits, grid)


def studied(key: Key) -> bool:
    """Whether any task has it."""
    return any((task, *key) in ROWS for task in SETTINGS)


def mean(task: str, key: Key) -> float:
    """The mean accuracy over the seeds; not a number without any."""
    return numbers(ROWS.get((task, *key), ()))[0]


def cells(key: Key) -> list[str]:
    """Mean ± deviation, a cell a task."""
    return [cell(ROWS.get((task, *key), ())) for task in SETTINGS]


def each(points: Callable[[str], float]) -> list[str]:
    """Points of every task, with a sign."""
    return [f"{points(task):+.1f}" for task in SETTINGS]


def by_task(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table with these columns of words, and one of figures for each task."""
    words = tuple(head)
    return table((*words, *SETTINGS), [tuple(line) for line in lines], len(words))


def summary() -> str:
    """Weights and states of one width, our grid, reset at once: accuracy in percent / bytes of tables and state."""
    lines = [["full precision", *cells(FULL)]]
    for bits in ("8", "4", "2"):
        key = both(bits, OURS)
        sizes = (f"{int(ROWS[(task, *key)][0]['bytes']):,}" for task in SETTINGS)
        lines.append([f"{bits} bits", *(f"{a} / {b}" for a, b in zip(cells(key), sizes, strict=True))])
    return by_task(["weights and states"], lines)


def grids() -> str:
    """Every state grid, weights and states trained at one width."""
    keys = [(bits, grid) for bits in BITS for grid in GRIDS if studied(both(bits, grid))]
    lines = [[bits, grid, *cells(both(bits, grid))] for bits, grid in keys]
    return by_task(["bits", "states"], [["", "full precision", *cells(FULL)], *lines])


def costs() -> str:
    """What a grid costs against full precision, weights and states trained at one width: points, and over all tasks."""
    lines = []
    for bits in BITS[1:]:
        for grid in GRIDS:
            if studied(both(bits, grid)):
                lost = [mean(task, both(bits, grid)) - mean(task, FULL) for task in SETTINGS]
                lines.append([bits, grid, *(f"{points:+.1f}" for points in lost), f"{statistics.mean(lost):+.2f}"])
    return table(["bits", "states", *SETTINGS, "mean"], lines, 2)


def mixed() -> str:
    """Quantizers of 2-bit weights with 2-bit aligned states, reset at once; points against full precision."""
    lines = []
    for name in ("lsq", "tquant", "dq", "maqd"):
        key = both("2", OURS, name)
        lost = each(lambda task, key=key: mean(task, key) - mean(task, FULL))
        lines.append([name, *(f"{a}, {b}" for a, b in zip(cells(key), lost, strict=True))])
    return by_task(["weights"], lines)


def ways() -> str:
    """What is trained, at one width for weights and states, by every state grid."""
    lines = []
    for bits in ("8", "4", "2"):
        for grid in GRIDS:
            for way in WAYS:
                key = (way, *both(bits, grid)[1:])
                if studied(key):
                    lines.append([bits, grid, way, *cells(key)])
    return by_task(["bits", "states", "way"], [["", "", "full precision", *cells(FULL)], *lines])


def gains() -> str:
    """Points by which training both beats the best of the other ways."""
    lines = []
    for bits in ("8", "4", "2"):
        for grid in GRIDS:
            *others, own = ((way, *both(bits, grid)[1:]) for way in WAYS)
            others = list(filter(studied, others))
            if studied(own) and others:
                lines.append([bits, grid, *each(lambda t, a=own, bs=others: mean(t, a) - max(mean(t, b) for b in bs))])
    return by_task(["bits", "states"], lines)


def weights_over_states() -> str:
    """Points by which training the weights alone beats training the states alone."""
    lines = []
    for bits in ("8", "4", "2"):
        for grid in ("squat", "aligned"):
            one, other = ((way, *both(bits, grid)[1:]) for way in ("weight-qat-mse", "state-qat-gpfq"))
            lines.append([bits, grid, *each(lambda task, a=one, b=other: mean(task, a) - mean(task, b))])
    return by_task(["bits", "states"], lines)


def weights() -> str:
    """Every weight quantizer and calibration, states of 16 bits."""
    keys = {key[1:] for key in ROWS if key[1].startswith(("ptq", "weight-qat")) and key[4:] == ("16", "uniform")}
    lines = [[k[1], k[2], k[0], *cells(k)] for k in sorted(keys, key=lambda k: (-int(k[1]), k))]
    return by_task(["bits", "weights", "way"], lines)


def activity() -> str:
    """Spikes of a hidden neuron a step / bytes of tables and state, `aligned` states reset at once."""
    lines = [["full precision", *(f"{numbers(ROWS[(task, *FULL)], 'rate')[0]:.3f}" for task in SETTINGS)]]
    for bits in BITS:
        chosen = [ROWS[(task, *both(bits, OURS))] for task in SETTINGS]
        lines.append([bits, *(f"{numbers(seeds, 'rate')[0]:.3f} / {int(seeds[0]['bytes']):,}" for seeds in chosen)])
    return by_task(["bits"], lines)


def duel() -> str:
    """Our grid against the better of SQUAT's two: the difference of the means, and the sum of the two deviations."""
    lines = []
    for way, weight_bits in (("both", None), ("scratch", "3")):
        for bits in ("2", "3"):
            line = []
            for task in SETTINGS:
                key = (task, way, weight_bits or bits, "lsq", bits)
                (other, wide) = max(numbers(ROWS[(*key, grid)]) for grid in SQUAT)
                own, spread = numbers(ROWS[(*key, OURS)])
                line.append(f"{own:.1f} against {other:.1f}: {own - other:+.1f}, {spread + wide:.1f}")
            lines.append([way, weight_bits or bits, bits, *line])
    return by_task(["way", "weight bits", "state bits"], lines)


def two_bits() -> str:
    """What states of 2 bits cost at all, weights being in full precision or of 2 bits."""
    lines = []
    for bits, wide in (("float", FULL), ("2", ("weight-qat", "2", "lsq", "16", "uniform"))):
        lines.append([bits, "wide", *cells(wide)])
        way = "state-qat" if bits == "float" else "both"
        lines += [[bits, grid, *cells((way, bits, "lsq", "2", grid))] for grid in (*SQUAT, "aligned", OURS)]
    return by_task(["weight bits", "states"], lines)


def gradient() -> str:
    """SQUAT's even grid, trained from scratch: its identity gradient, and one that is cut where it saturates."""
    pairs = [(bits, grid) for bits in ("3", "2") for grid in ("squat", f"squat{UNCUT}")]
    lines = [[bits, grid, *cells(("scratch", "3", "lsq", bits, grid))] for bits, grid in pairs]
    return by_task(["state bits", "states"], lines)


def deployed() -> str:
    """How many networks there are, and what came of those that were deployed."""
    compared = [int(row["mismatches"]) for row in STUDY if row["mismatches"]]
    return f"{len(list(STUDY)):,} networks, {len(compared):,} of them deployed, {sum(compared)} mismatches"


def plot() -> None:
    """A plot a task: accuracy of every state grid against its bits, full precision as a line."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quantal"  # equal rows, equal bytes
    from matplotlib import pyplot

    for task in SETTINGS:
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for grid in GRIDS:
            points = [(int(b), *numbers(ROWS.get((task, *both(b, grid)), ()))) for b in BITS]
            points = [point for point in points if point[1] == point[1]]
            if points:
                x, means, deviations = zip(*points, strict=True)
                axes.errorbar(x, means, yerr=deviations, label=grid, marker="o", capsize=3)
        axes.axhline(mean(task, FULL), color="black", linestyle=":", label="full precision")
        axes.set(title=task, xlabel="bits of weights and of states", ylabel="test accuracy, %", xticks=[2, 3, 4, 8])
        axes.legend(fontsize="small")
        write_figure(f"quantizers_{task}", figure)
        pyplot.close(figure)


TABLES = (
    summary, grids, costs, mixed, ways, gains, weights_over_states, weights, activity, duel, two_bits, gradient,
    deployed,
)  # fmt: skip


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", action="store_true", help="draw the plots too")
    for show in TABLES:
        print(f"{show.__doc__}\n\n{show()}\n")
    if parser.parse_args().plots:
        plot()


if __name__ == "__main__":
    main()
