"""The tables and plots of quantizer_study.csv: mean ± standard deviation over seeds, in percent.

python benchmarks/quantizer_report.py            tables in Markdown: benchmarks/quantizers.md
python benchmarks/quantizer_report.py --plots    and a plot a task in benchmarks/plots
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from quantizer_study import AT_ONCE, GRIDS, SETTINGS, STUDY, UNCUT
from study import cell, numbers, table, write_figure

PLOTS = Path(__file__).with_name("plots")
BITS = ("8", "4", "3", "2")
FULL = ("fp", "float", "lsq", "float", "uniform")
SQUAT = ("squat", "squat-threshold")
OURS = f"aligned{AT_ONCE}"
Found = dict[tuple[str, ...], list[dict[str, str]]]


def found() -> Found:
    """The rows of all seeds, by everything else: (task, method, weight bits, quantizer, state bits, quantizer)."""
    rows: Found = defaultdict(list)
    for row in STUDY:
        names = ("task", "method", "weight_bits", "weight_quantizer", "state_bits", "state_quantizer")
        rows[tuple(row[name] for name in names)].append(row)
    return rows


def ways(rows: Found) -> None:
    """What is trained, at one width for weights and states, by every state grid."""
    lines = []
    for bits in ("8", "4", "2"):
        for grid in GRIDS:
            for method in ("ptq-gpfq", "state-qat-gpfq", "weight-qat-mse", "both"):
                key = (method, bits, "lsq", bits, grid)
                if any((task, *key) in rows for task in SETTINGS):
                    lines.append([bits, grid, method, *(cell(rows[(task, *key)]) for task in SETTINGS)])
    full = [cell(rows[(task, *FULL)]) for task in SETTINGS]
    print(table(["bits", "states", "way", *SETTINGS], [["", "", "full precision", *full], *lines]), end="\n\n")


def findings(rows: Found) -> None:
    """Points by which training both beats the next best way, and training weights beats training states."""
    lines = []
    for bits in ("8", "4", "2"):
        for grid in ("squat", "aligned"):
            firsts, seconds = [], []
            for task in SETTINGS:

                def mean(method: str, task: str = task, bits: str = bits, grid: str = grid) -> float:
                    return numbers(rows[(task, method, bits, "lsq", bits, grid)])[0]

                one, other = mean("weight-qat-mse"), mean("state-qat-gpfq")
                firsts.append(f"{mean('both') - max(one, other, mean('ptq-gpfq')):+.1f}")
                seconds.append(f"{one - other:+.1f}")
            lines += [[bits, grid, "both, over the next best", *firsts], [bits, grid, "weights over states", *seconds]]
    print(table(["bits", "states", "", *SETTINGS], lines), end="\n\n")


def cost(rows: Found) -> None:
    """What a grid costs against full precision, weights and states trained at one width: points, and over all tasks."""
    lines = []
    for bits in ("4", "3", "2"):
        for grid in GRIDS:
            if not any((task, "both", bits, "lsq", bits, grid) in rows for task in SETTINGS):
                continue
            full = [numbers(rows[(task, *FULL)])[0] for task in SETTINGS]
            means = [numbers(rows[(task, "both", bits, "lsq", bits, grid)])[0] for task in SETTINGS]
            lost = [mean - best for mean, best in zip(means, full, strict=True)]
            lines.append([bits, grid, *(f"{points:+.1f}" for points in lost), f"{statistics.mean(lost):+.2f}"])
    print(table(["bits", "states", *SETTINGS, "mean"], lines), end="\n\n")


def grids(rows: Found) -> None:
    """Every state grid, weights and states trained at one width."""
    lines = []
    for bits in BITS:
        for grid in GRIDS:
            key = ("both", bits, "lsq", bits, grid)
            if any((task, *key) in rows for task in SETTINGS):
                lines.append([bits, grid, *(cell(rows[(task, *key)]) for task in SETTINGS)])
    print(table(["bits", "states", *SETTINGS], lines), end="\n\n")


def duel(rows: Found) -> None:
    """Our grid against the better of SQUAT's two: the difference of the means, and the sum of the two deviations."""
    lines = []
    for method, weight_bits in (("both", None), ("scratch", "3")):
        for bits in ("2", "3"):
            cells = []
            for task in SETTINGS:
                key = (task, method, weight_bits or bits, "lsq", bits)
                (_, theirs), ours = max((numbers(rows[(*key, grid)])[0], grid) for grid in SQUAT), rows[(*key, OURS)]
                (mean, spread), (other, wide) = numbers(ours), numbers(rows[(*key, theirs)])
                cells.append(f"{mean:.1f} against {other:.1f}: {mean - other:+.1f}, {spread + wide:.1f}")
            lines.append([method, weight_bits or bits, bits, *cells])
    print(table(["way", "weight bits", "state bits", *SETTINGS], lines), end="\n\n")


def room(rows: Found) -> None:
    """What states of 2 bits cost at all, weights being trained in full precision or in 2 bits."""
    lines = []
    for weight_bits, wide in (("float", FULL), ("2", ("weight-qat", "2", "lsq", "16", "uniform"))):
        lines.append([weight_bits, "wide", *(cell(rows[(task, *wide)]) for task in SETTINGS)])
        method = "state-qat" if weight_bits == "float" else "both"
        for grid in (*SQUAT, "aligned", OURS):
            key = (method, weight_bits, "lsq", "2", grid)
            lines.append([weight_bits, grid, *(cell(rows[(task, *key)]) for task in SETTINGS)])
    print(table(["weight bits", "states", *SETTINGS], lines), end="\n\n")


def gradient(rows: Found) -> None:
    """SQUAT's even grid, trained from scratch: its identity gradient, and one that is cut where it saturates."""
    lines = []
    for bits in ("3", "2"):
        for grid in ("squat", f"squat{UNCUT}"):
            key = ("scratch", "3", "lsq", bits, grid)
            lines.append([bits, grid, *(cell(rows[(task, *key)]) for task in SETTINGS)])
    print(table(["state bits", "states", *SETTINGS], lines), end="\n\n")


def weights(rows: Found) -> None:
    """Every weight quantizer and calibration, states of 16 bits."""
    keys = sorted(
        {key[1:] for key in rows if key[1].startswith(("ptq", "weight-qat")) and key[4:] == ("16", "uniform")}
    )
    lines = [
        [k[1], k[2], k[0], *(cell(rows[(task, *k)]) for task in SETTINGS)]
        for k in sorted(keys, key=lambda k: -int(k[1]))
    ]
    print(table(["bits", "weights", "way", *SETTINGS], lines), end="\n\n")


def mixed(rows: Found) -> None:
    """Every quantizer of 2-bit weights with 2-bit aligned states, reset at once; points against full precision."""
    lines = []
    for name in ("lsq", "tquant", "dq", "maqd"):
        cells = []
        for task in SETTINGS:
            found_here = rows[(task, "both", "2", name, "2", OURS)]
            cells.append(f"{cell(found_here)}, {numbers(found_here)[0] - numbers(rows[(task, *FULL)])[0]:+.1f}")
        lines.append([name, *cells])
    print(table(["weights", *SETTINGS], lines), end="\n\n")


def spikes(rows: Found) -> None:
    """How often the hidden layer fires a neuron and step, and what is flashed and kept in RAM."""
    lines = []
    for bits in BITS:
        key = ("both", bits, "lsq", bits, OURS)
        chosen = [rows[(task, *key)] for task in SETTINGS]
        rate = [f"{numbers(r, 'rate')[0]:.3f}" if r else "–" for r in chosen]
        size = [f"{int(r[0]['bytes']):,}" if r else "–" for r in chosen]
        lines.append([bits, *(f"{a} / {b}" for a, b in zip(rate, size, strict=True))])
    full = [rows[(task, *FULL)] for task in SETTINGS]
    print(
        table(["bits", *SETTINGS], [["full precision", *(f"{numbers(r, 'rate')[0]:.3f}" for r in full)], *lines]),
        end="\n\n",
    )


def plot(rows: Found) -> None:
    """A plot a task: accuracy of every state grid against its bits, full precision as a line."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quantal"  # equal rows, equal bytes
    from matplotlib import pyplot

    for task in SETTINGS:
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for grid in GRIDS:
            points = [(int(b), *numbers(rows[(task, "both", b, "lsq", b, grid)])) for b in BITS]
            points = [point for point in points if point[1] == point[1]]
            if points:
                x, mean, deviation = zip(*points, strict=True)
                axes.errorbar(x, mean, yerr=deviation, label=grid, marker="o", capsize=3)
        mean, _ = numbers(rows[(task, *FULL)])
        axes.axhline(mean, color="black", linestyle=":", label="full precision")
        axes.set(title=task, xlabel="bits of weights and of states", ylabel="test accuracy, %", xticks=[2, 3, 4, 8])
        axes.legend(fontsize="small")
        write_figure(PLOTS / f"quantizers_{task}.svg", figure)
        pyplot.close(figure)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", action="store_true", help="draw the plots too")
    rows = found()
    for show in (ways, findings, grids, cost, duel, room, gradient, weights, mixed, spikes):
        print(f"{show.__doc__}\n")
        show(rows)
    deployed = [row for several in rows.values() for row in several if row["mismatches"]]
    print(f"{len(deployed)} networks deployed, {sum(int(row['mismatches']) for row in deployed)} mismatches")
    if parser.parse_args().plots:
        plot(rows)


if __name__ == "__main__":
    main()
