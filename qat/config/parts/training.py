"""How a network is trained: [training], by its method, and [augmentation]."""

from typing import Annotated, ClassVar, Literal

from quantal.qat.config.parts.fields import Part, about, tag, within

MOST_SHARP = 1000.0
"""The most temperature of a differentiable quantizer."""

Seed = Annotated[int, within(0, 2**32 - 1, "of initial weights, of the order of samples and of augmentation")]
Loss = Literal["last", "steps", "regression"]


class _Training(Part, tag_field="method"):
    @property
    def method(self) -> str:
        """Its name."""
        return tag(type(self))


class _Gradients(_Training):
    """Adam, with a rate that halves every `halving` epochs."""

    epochs: Annotated[int, within(0, 100_000, "how many")] = 10
    batch: Annotated[int, within(1, 65_536, "samples")] = 64
    rate: Annotated[float, within(0, 10, "the learning rate at first")] = 2e-3
    halving: Annotated[float, within(1e-3, 1e9, "epochs in which it halves")] = 5.0
    clip: Annotated[float, within(0, 1e6, "a batch's longer gradient is shortened to this norm; 0: none is")] = 0.0
    seed: Seed = 0
    teacher_share: Annotated[float, within(0, 1, "of the loss, what is the teacher's where there is one")] = 0.5
    teacher_temperature: Annotated[float, within(0.1, 1000, "that softens a teacher's answers")] = 2.0
    surrogate: Annotated[
        Literal["fast-sigmoid", "arctan", "triangular", "s2nn", "multi-gaussian"],
        about("what a spike's derivative is taken to be: see qat/arithmetic/surrogates.py"),
    ] = "fast-sigmoid"
    slope: Annotated[float, within(1e-3, 1e3, "of the surrogate")] = 5.0
    damping: Annotated[float, within(1e-3, 1, "of the surrogate, for gradients in loops")] = 1.0
    temperature: Annotated[
        float, within(1e-3, 1e3, f"of differentiable quantizers: n times it in epoch n, at most {MOST_SHARP:g}")
    ] = 10.0
    budget: Annotated[int, within(0, 2**31 - 1, "bytes that all weights may take, where layers learn their bits")] = 0


class Bptt(_Gradients, tag="bptt"):
    """Gradients through all time."""

    decay_rate: Annotated[float, within(0, 1, "the share of the rate that decays have")] = 1.0
    loss: Annotated[Loss, about("the class of the last output, a class a step, or real targets of the last output")] = (
        "last"
    )
    penalty: Annotated[
        float, within(0, 1e6, "λ on a sample's synaptic operations, as a share of those with every neuron firing")
    ] = 0.0
    forward: Annotated[Literal["hard", "soft"], about("of differentiable quantizers in training")] = "hard"
    truncate: Annotated[int, within(0, 65_535, "K: gradients end at every K-th step; 0: they pass sequences")] = 0


class _Accumulated(_Gradients):
    """Gradients from accumulated spikes, of constant memory; decays are not learned: see qat/training/saf.py."""

    decay_rate: ClassVar[float] = 1.0
    loss: ClassVar[Loss] = "last"
    penalty: ClassVar[float] = 0.0
    forward: ClassVar[Literal["hard"]] = "hard"
    truncate: ClassVar[int] = 0


class SafE(_Accumulated, tag="saf-e"):
    """Gradients from accumulated spikes, for the mean of the losses of all steps."""


class SafF(_Accumulated, tag="saf-f"):
    """Gradients from accumulated spikes, for the loss of the last step."""


class Ridge(_Training, tag="ridge"):
    """The readout alone is learned, at once: see qat/training/ridge.py."""

    ridge: Annotated[float, within(0, 1e12, "the penalty; 0 for one that is chosen")] = 0.0
    seed: Seed = 0
    loss: ClassVar[Loss] = "last"
    epochs: ClassVar[int] = 0
    decay_rate: ClassVar[float] = 1.0
    penalty: ClassVar[float] = 0.0
    forward: ClassVar[Literal["hard"]] = "hard"
    truncate: ClassVar[int] = 0
    budget: ClassVar[int] = 0


Gradients = Bptt | SafE | SafF
Training = Gradients | Ridge


class Augmentation(Part):
    """What is done to the events of the training samples, anew in each epoch: see qat/data/augmentation.py."""

    shift_space: Annotated[int, within(0, 65_535, "channels of the pooled plane that a sample is moved by at most")] = 0
    shift_time: Annotated[int, within(0, 65_535, "steps that a sample is moved by at most")] = 0
    jitter: Annotated[int, within(0, 65_535, "steps that an event is moved by at most")] = 0
    drop: Annotated[float, within(0, 1, "the share of the events that is left out")] = 0.0
