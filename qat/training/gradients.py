"""How a batch teaches: gradients of its loss by BPTT, whole or truncated, or by SAF (saf.py), a teacher's part and a
penalty's included.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quantal.qat.config.parts.training import Gradients
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training import objectives, saf

PART_STEPS = 64  # at least so many go through the network at a time: each call of it costs something


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch of `samples`, of which this process may have a part, as `network.config.training` says.

    teacher: the network, if any, whose outputs are learned beside the labels.
    """

    network: SpikingNetwork
    teacher: SpikingNetwork | None
    samples: int

    def backward(self, x: Tensor, y: Tensor) -> tuple[float, list[float]]:
        """Adds the gradients of the mean loss to those of the parameters; x (part of the batch, steps, inputs).

        Returns what the part adds to that mean, and its tally (see objectives.py).
        """
        return self._through_time(x, y) if self.network.config.training.method == "bptt" else self._by_sums(x, y)

    def _through_time(self, x: Tensor, y: Tensor) -> tuple[float, list[float]]:
        network, training = self.network, self.network.config.training
        added, tally = 0.0, objectives.nothing(network)
        steps, size = x.shape[1], self._steps_at_a_time(x.shape[1])
        carried: dict[str, dict[str, Tensor]] = {}
        for first in range(0, steps, size):
            part, ends = slice(first, first + size), first + size >= steps
            learns = ends or training.loss == "steps"
            sent: list[Tensor] = []
            with torch.set_grad_enabled(learns or training.penalty > 0):
                outputs = network(x[:, part], sent=sent, carried=carried)
            losses = []
            if learns:
                answers, labels = (outputs, y[:, part]) if training.loss == "steps" else (outputs[:, -1], y)
                logits = answers * network.logit_unit(steps)
                own = objectives.summed_loss(network, logits, labels, y)
                losses.append(own if self.teacher is None else self._taught(own, logits, self._wanted(x)))
                tally = [a + b for a, b in zip(tally, objectives.tally(network, logits, labels), strict=True)]
            if training.penalty:
                losses.append(self._paid(sent, steps, ends))
            if losses:
                loss = torch.stack(losses).sum() / self.samples
                loss.backward()  # type: ignore[no-untyped-call]
                added += float(loss.detach())
        return added, tally

    def _by_sums(self, x: Tensor, y: Tensor) -> tuple[float, list[float]]:
        network, wanted = self.network, None if self.teacher is None else self._wanted(x)

        def loss(logits: Tensor) -> Tensor:
            own = objectives.summed_loss(network, logits, y, y)
            return (own if wanted is None else self._taught(own, logits, wanted)) / self.samples

        logits, added = saf.gradients(network, x, loss, network.config.training.method == "saf-e")
        return added, objectives.tally(network, logits, y)

    @property
    def _training(self) -> Gradients:
        training = self.network.config.training
        assert isinstance(training, Gradients)
        return training

    def _steps_at_a_time(self, steps: int) -> int:
        """How many of a sample's are held between forward and backward: gradients end where they do."""
        truncate = self.network.config.training.truncate
        return truncate * -(-PART_STEPS // truncate) if truncate else steps

    def _paid(self, sent: list[Tensor], steps: int, ends: bool) -> Tensor:
        """The penalty on the spikes (some steps, batch, size) of samples of `steps` steps, summed over samples."""
        most = self.network.operations([spikes.new_ones(steps, 1, spikes.shape[2]) for spikes in sent])
        return self.network.config.training.penalty * (self.network.operations(sent, ends) / most).sum()

    @torch.no_grad()
    def _wanted(self, x: Tensor) -> Tensor:
        """The logarithm of the teacher's softmax at τ, (batch, classes)."""
        assert self.teacher is not None
        return functional.log_softmax(self.teacher.logits(x.float()) / self._training.teacher_temperature, dim=1)

    def _taught(self, loss: Tensor, logits: Tensor, wanted: Tensor) -> Tensor:
        """In part τ² · KL of the two softmaxes at τ, the teacher's first, summed over samples (arXiv 1503.02531)."""
        share, temperature = self._training.teacher_share, self._training.teacher_temperature
        given = functional.log_softmax(logits / temperature, dim=1)
        distance = functional.kl_div(given, wanted.to(given), reduction="sum", log_target=True)
        return (1 - share) * loss + share * (temperature**2 * distance)
