"""Differentiable quantization: its function at several temperatures, and the gap between its soft and its hard form.

The digits network is trained soft, weights and states by sums of sigmoids, while the temperature rises. After every
epoch the test set is classified by both forms: the gap is wide at first, and has to vanish before the hard one is
deployed. Prints a row an epoch and draws differentiable_function.svg and differentiable_handover.svg among the plots
of docs/results.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import torch
from rich.progress import Progress
from study import write_figure
from torch.nn import functional

from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.states import DqStates
from quantal.qat.config.precision import with_precision
from quantal.qat.config.preset import preset
from quantal.qat.data.registry import Dataset
from quantal.qat.quantizers.weights import sum_of_sigmoids
from quantal.qat.training.epochs import train_until
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import new_run

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "quantal"  # equal figures, equal bytes
from matplotlib import pyplot  # noqa: E402

LEVELS = (-4, -2, -1, 0, 1, 2, 4)
TEMPERATURES = (1, 3, 10, 100)


def draw_function() -> None:
    """The function and its gradient for seven levels."""
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    borders, gaps = (levels[1:] + levels[:-1]) / 2, levels.diff()
    x = torch.linspace(-5, 5, 2001, dtype=torch.float64, requires_grad=True)
    figure, (values, slopes) = pyplot.subplots(1, 2, figsize=(10, 4))
    for temperature in TEMPERATURES:
        y = sum_of_sigmoids(x, borders, gaps, temperature, soft=True)
        (slope,) = torch.autograd.grad(y.sum(), x)
        values.plot(x.detach(), y.detach(), label=f"T = {temperature}")
        if temperature < TEMPERATURES[-1]:
            slopes.plot(x.detach(), slope, label=f"T = {temperature}")
    values.plot(x.detach(), sum_of_sigmoids(x, borders, gaps, 1, soft=False).detach(), "k:", label="deployed")
    values.set(xlabel="βw", title="value")
    slopes.set(xlabel="βw", title="gradient")
    for axes in (values, slopes):
        axes.legend(fontsize="small")
    write_figure("differentiable_function", figure)


def judged(run: Run, data: Dataset, soft: bool) -> tuple[float, float]:
    """(loss, accuracy in percent) on the test set, by the soft form or the hard one."""
    x, y = run.tensors(data.test, torch.float32)
    run.network.train(soft)
    with torch.no_grad():
        logits = run.network.logits(x)
    run.network.eval()
    return float(functional.cross_entropy(logits, y)), 100 * float((logits.argmax(1) == y).double().mean())


def main() -> None:
    """Trains, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2, help="of weights and of states")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument(
        "--temperature", type=float, default=2.0, help="in the first epoch; in epoch n it is n times that"
    )
    chosen = parser.parse_args()
    draw_function()
    config = with_precision(preset("digits"), weights=chosen.bits, weight_quantizer="dq")
    hidden = replace(config.layers[0], states=DqStates(membrane=chosen.bits))
    training = replace(config.training, forward="soft", temperature=chosen.temperature, epochs=chosen.epochs)
    config = replace(config, layers=(hidden, *config.layers[1:]), training=training)
    data, rows = load_data(config, None), []
    print("epoch,temperature,soft_loss,hard_loss,soft_accuracy,hard_accuracy")
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder) / "run", config, data)
        for epoch in range(1, chosen.epochs + 1):
            train_until(run, data, epoch, Progress(disable=True))
            (soft_loss, soft), (hard_loss, hard) = judged(run, data, True), judged(run, data, False)
            rows.append((epoch, epoch * chosen.temperature, soft_loss, hard_loss, soft, hard))
            print(",".join(f"{value:.4g}" for value in rows[-1]), flush=True)
    epochs, _, soft_loss, hard_loss, soft, hard = zip(*rows, strict=True)
    figure, (losses, accuracies) = pyplot.subplots(1, 2, figsize=(10, 4))
    for axes, title, of_soft, of_hard in (
        (losses, "test loss", soft_loss, hard_loss),
        (accuracies, "test accuracy, %", soft, hard),
    ):
        axes.plot(epochs, of_soft, label="soft, as trained")
        axes.plot(epochs, of_hard, label="hard, as deployed")
        axes.set(xlabel=f"epoch, temperature {chosen.temperature:g} · epoch", title=title)
        axes.legend(fontsize="small")
    write_figure("differentiable_handover", figure)


if __name__ == "__main__":
    main()
