"""The neuron of a layer: [layer.neuron], by its kind. qat/arithmetic/neurons.py has what each computes."""

from typing import Annotated, ClassVar, Literal

from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.config.parts.fields import Part, about, above, tag, within

Per = Literal["layer", "neuron"]


class Synapse(Part, tag_field="kind", tag="exponential"):
    """A current that decays: I = αI + the products."""

    number: ClassVar[str] = "decay"
    decay: Annotated[float, within(0, 1, "α at first, learned")] = 0.8

    @property
    def kind(self) -> str:
        """Its name."""
        return tag(type(self))


class Adaptation(Part):
    """A threshold that each spike raises, and that falls back: θ = θ₀ + A, A = ρA + βS."""

    number: ClassVar[str] = "amount"
    amount: Annotated[float, above(0, 1000, "β at first, in thresholds: what a spike raises it by; learned")]
    decay: Annotated[float, within(0, 1, "ρ at first, learned")] = 0.95
    spread: Annotated[
        float, within(1, 1e3, "time constants 1 / (1 − ρ) lie from 1/spread to spread times theirs at first")
    ] = 1.0


class _Neuron(Part, tag_field="kind"):
    @property
    def kind(self) -> str:
        """Its name, the row of NEURONS that it is."""
        return tag(type(self))

    @property
    def decays(self) -> dict[str, float]:
        """What it learns of decays, by name: each as it is at first."""
        return {}

    @property
    def fires(self) -> bool:
        """Whether it sends spikes, or counts them."""
        return NEURONS[self.kind].fires

    @property
    def readout(self) -> bool:
        """Whether it ends a network."""
        return NEURONS[self.kind].readout

    @property
    def stateless(self) -> bool:
        """Whether it keeps nothing from step to step."""
        return NEURONS[self.kind].stateless


class _Leaky(_Neuron):
    decay: Annotated[float, within(0, 1, "β of the membrane at first, learned as m / 2^decay_bits; 1: no leak")] = 0.9
    decay_bits: Annotated[int, within(1, 12, "bits of every learned decay")] = 6
    decay_per: Annotated[Per, about("one decay for the layer, or one a neuron")] = "layer"

    @property
    def decays(self) -> dict[str, float]:
        """What it learns of decays, by name: each as it is at first."""
        synapse, adaptation = getattr(self, "synapse", None), getattr(self, "adaptation", None)
        found = {"decay": self.decay} if self.decay < 1 else {}
        found |= {} if synapse is None else {"synapse_decay": synapse.decay}
        return found if adaptation is None else found | {"adaptation_decay": adaptation.decay}


class _Spiking(_Leaky):
    threshold: Annotated[float, within(1e-3, 1e3, "θ at first, learned")] = 1.0
    threshold_per: Annotated[
        Literal["auto", "layer", "neuron"], about("one θ for the layer or one a neuron, as auto; a state table has one")
    ] = "auto"
    reset: Annotated[
        Literal["subtract", "zero", "zero-before", "none"],
        about("what a spike takes from U: θ, all of it, all before it decays, nothing"),
    ] = "subtract"
    timing: Annotated[
        Literal["delayed", "immediate", "snntorch"],
        about("when: a step after the spike, at once, or as snnTorch's reset_delay=False"),
    ] = "delayed"
    spikes: Annotated[int, within(1, 15, "how many a neuron sends at once at most")] = 1
    refractory: Annotated[int, within(0, 255, "for how many steps after a spike it sends none")] = 0
    synapse: Annotated[Synapse | None, about("a current that is a state of its own")] = None
    adaptation: Annotated[Adaptation | None, about("a threshold that spikes raise")] = None
    pool: ClassVar[str] = "last"


class Lif(_Spiking, tag="lif"):
    """Leaky integrate-and-fire: U = βU + I − R, S = [U > θ]."""


class Alpha(_Leaky, tag="alpha"):
    """An alpha-shaped response, snnTorch's Alpha: E = αE + I, H = βH − I, S = [E + H > θ]."""

    decay: Annotated[float, within(0, 1, "β at first, learned; below α")] = 0.8
    synapse_decay: Annotated[float, within(0, 1, "α at first, learned")] = 0.9
    threshold: Annotated[float, within(1e-3, 1e3, "θ at first, learned: snnTorch's over its τ")] = 1.0
    threshold_per: Annotated[Literal["auto", "layer", "neuron"], about("one θ for the layer or one a neuron")] = "auto"
    reset: Annotated[Literal["zero", "none"], about("what a spike takes from E and H, a step after it")] = "zero"
    timing: ClassVar[str] = "delayed"
    spikes: ClassVar[int] = 1
    refractory: ClassVar[int] = 0
    synapse: ClassVar[None] = None
    adaptation: ClassVar[None] = None
    pool: ClassVar[str] = "last"

    @property
    def decays(self) -> dict[str, float]:
        """What it learns of decays, by name: each as it is at first."""
        return {**super().decays, "synapse_decay": self.synapse_decay}


class Step(_Neuron, tag="step"):
    """S = [I > θ], without a state: the neuron of single-step networks."""

    threshold: Annotated[float, within(1e-3, 1e3, "θ at first, learned")] = 1.0
    threshold_per: Annotated[Literal["auto", "layer", "neuron"], about("one θ for the layer or one a neuron")] = "auto"
    spikes: Annotated[int, within(1, 15, "how many a neuron sends at once at most")] = 1
    decay: ClassVar[float] = 1.0
    decay_bits: ClassVar[int] = 6
    decay_per: ClassVar[Per] = "layer"
    reset: ClassVar[str] = "none"
    timing: ClassVar[str] = "delayed"
    refractory: ClassVar[int] = 0
    synapse: ClassVar[None] = None
    adaptation: ClassVar[None] = None
    pool: ClassVar[str] = "last"


class Li(_Leaky, tag="li"):
    """A leaky integrator, a readout without spikes: U = βU + I."""

    synapse: Annotated[Synapse | None, about("a current that is a state of its own: CUBA-LI")] = None
    pool: Annotated[Literal["last", "max"], about("the output: U as it is last, or its maximum over time")] = "last"
    threshold: ClassVar[float] = 1.0
    threshold_per: ClassVar[str] = "auto"
    reset: ClassVar[str] = "none"
    timing: ClassVar[str] = "delayed"
    spikes: ClassVar[int] = 1
    refractory: ClassVar[int] = 0
    adaptation: ClassVar[None] = None


class Count(_Spiking, tag="count"):
    """A readout that counts the spikes of a lif neuron."""


Neuron = Lif | Alpha | Step | Li | Count
