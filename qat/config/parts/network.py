"""A whole network file: its data, its layers, its training."""

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from quantal.qat.config.parts.fields import Part, about, tag, within
from quantal.qat.config.parts.layers import Conv, Layer, Pool, Weighted
from quantal.qat.config.parts.training import Augmentation, Bptt, Training

MOST_LAYERS = 4096


class Task(Part):
    """The data set, and the options of its loader: see qat/data/."""

    name: Annotated[
        Literal[
            "digits", "mnist", "nmnist", "speech", "braille", "shd", "ssc", "dvs-gesture", "qtdb", "timeseries", "npz"
        ],
        about("the data set"),
    ]
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)


class _Encoder(Part, tag_field="kind"):
    steps: Annotated[int, within(1, 65_535, "of a sample")] = 8

    @property
    def kind(self) -> str:
        """Its name, the row of ENCODERS that it is."""
        return tag(type(self))


class Direct(_Encoder, tag="direct"):
    """The integers themselves."""

    seed: ClassVar[int] = 0
    delta: ClassVar[int] = 16


class Latency(_Encoder, tag="latency"):
    """One spike a channel, the earlier the larger its value."""

    seed: ClassVar[int] = 0
    delta: ClassVar[int] = 16


class Rate(_Encoder, tag="rate"):
    """Spikes as often as the value says."""

    seed: Annotated[int, within(0, 2**32 - 1, "of the device's own random numbers")] = 0
    delta: ClassVar[int] = 16


class Delta(_Encoder, tag="delta"):
    """Send on delta: a spike up or down where a value has changed."""

    delta: Annotated[int, within(1, 2**16 - 1, "the change that is sent")] = 16
    seed: ClassVar[int] = 0


Encoder = Direct | Latency | Rate | Delta


class Config(Part, kw_only=True):
    """A whole network file."""

    task: Annotated[Task, about("the data set")]
    encoder: Annotated[Encoder, about("how data becomes the integers of each step")] = Direct()
    layers: Annotated[
        tuple[Layer, ...], Meta(min_length=1, max_length=MOST_LAYERS, description="in order, a readout last")
    ] = msgspec.field(name="layer")
    training: Annotated[Training, about("how it learns")] = Bptt()
    augmentation: Annotated[Augmentation, about("of events, in training alone")] = Augmentation()

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The layers that have weights and neurons."""
        return tuple(layer for layer in self.layers if not isinstance(layer, Pool))

    @property
    def readout(self) -> Weighted:
        """The last layer that has weights."""
        return self.weighted[-1]

    @property
    def sources(self) -> tuple[tuple[str, ...], ...]:
        """What each layer sees, by name."""
        before = ("input", *(layer.name for layer in self.layers))
        return tuple(layer.inputs or (before[i],) for i, layer in enumerate(self.layers))

    def weight_counts(self, inputs: int) -> dict[str, int]:
        """How many weights each layer has, by name, where `inputs` integers reach the network at each step."""
        sizes, counts = {"input": inputs}, {}
        for layer, sources in zip(self.layers, self.sources, strict=True):
            sizes[layer.name], counts[layer.name] = layer.size, 0
            if isinstance(layer, Pool):
                continue
            fan_in = sum(sizes[name] for name in sources) * len(layer.delays)
            if isinstance(layer, Conv):
                fan_in = layer.shape[0] // layer.groups * layer.kernel[0] * layer.kernel[1]
            fed_back = {False: 0, True: layer.size, "diagonal": 1}[layer.recurrent]
            counts[layer.name] = layer.rows * (fan_in + fed_back)
        return counts
