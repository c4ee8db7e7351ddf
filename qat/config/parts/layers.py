"""The layers of a network: [[layer]], by its connection, with the parts that it is made of."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from quantal.export.base.windows import Window
from quantal.export.ir.check import MOST_DELAY
from quantal.qat.config.parts.fields import Part, about, tag, within
from quantal.qat.config.parts.neurons import Alpha, Lif, Neuron
from quantal.qat.config.parts.states import AT_ONCE, States, Uniform
from quantal.qat.config.parts.weights import FloatWeights, Lsq, Weights

CURRENT_NORMS = ("batch", "layer-batch")

NeuronPart = Annotated[Neuron, about("what its neurons compute")]
WeightsPart = Annotated[Weights, about("what its weights become")]
StatesPart = Annotated[States, about("how its neurons' states are kept")]
Norm = Annotated[
    Literal["none", "batch", "layer-batch", "psp"],
    about("batch and layer-batch: of the current; psp: of the spikes that come in"),
]
Bias = Annotated[bool, about("whether each neuron has a constant current, learned")]
Add = Annotated[str, about("the layer whose current, of the same size, is added to its own")]
Source = Annotated[
    tuple[str, ...],
    Meta(max_length=1, description="the layer that it sees, the one before unless given; input: the network's own"),
]
Shape = Annotated[
    tuple[Annotated[int, within(1, 65_536, "")], ...],
    Meta(
        max_length=3,
        description="of what it sees, [channels, length] or [channels, height, width], where no layer says so itself",
    ),
]
Kernel = Annotated[
    tuple[Annotated[int, within(1, 65_535, "")], ...],
    Meta(min_length=1, max_length=2, description="one number, or two where down and across differ"),
]
Stride = tuple[Annotated[int, within(1, 65_535, "")], ...]
Padding = Annotated[
    tuple[Annotated[int, within(0, 65_535, "")], ...],
    Meta(max_length=2, description="as the kernel; none unless given"),
]


class _Layer(Part, tag_field="connection"):
    name: Annotated[str, about("a C identifier; no two layers share one")]

    @property
    def connection(self) -> str:
        """Its name."""
        return tag(type(self))


class _Weighted(_Layer):
    neuron: NeuronPart = Lif()
    weights: WeightsPart = Lsq()
    states: StatesPart = Uniform()

    @property
    def resets_at_once(self) -> bool:
        """Whether its neurons fire, and are reset in the same step."""
        return self.neuron.fires and self.neuron.reset != "none" and self.neuron.timing == "immediate"

    @property
    def after_reset(self) -> bool:
        """Whether a membrane is quantized after its neuron has fired and been reset, and not before."""
        return self.resets_at_once and self.states.quantizer in AT_ONCE


class Dense(_Weighted, tag="dense", kw_only=True):
    """All of what it sees, with a weight for each pair."""

    size: Annotated[int, within(1, 65_536, "how many neurons")]
    inputs: Annotated[
        tuple[str, ...], about("the layers that it sees, the one before unless given; input: the network's own")
    ] = ()
    delays: Annotated[
        tuple[Annotated[int, within(0, MOST_DELAY, "")], ...],
        Meta(
            min_length=1,
            description="it sees each of them so many steps late, once for each delay, with weights of its own",
        ),
    ] = (0,)
    add: Add = ""
    recurrent: Annotated[
        bool | Literal["diagonal"],
        about("whether its neurons see the spikes of the step before: all of them, or each its own (diagonal)"),
    ] = False
    bias: Bias = True
    norm: Norm = "none"
    groups: ClassVar[int] = 1
    window: ClassVar[None] = None

    @property
    def rows(self) -> int:
        """How many rows of weights it has: one a neuron."""
        return self.size


class Reservoir(_Weighted, tag="reservoir", kw_only=True):
    """A recurrent layer that is drawn, not trained: see qat/network/reservoir.py."""

    size: Annotated[int, within(1, 65_536, "how many neurons")]
    density: Annotated[float, within(0, 1, "the share of recurrent weights that are not 0, at least one a row")] = 0.1
    inhibitory: Annotated[float, within(0, 1, "the share of neurons whose recurrent weights are negative")] = 0.2
    rate: Annotated[float, within(1e-4, 1, "spikes of a neuron a step, on average over training samples")] = 0.05
    neuron: Annotated[Lif | Alpha, about("what its neurons compute")] = Lif()
    weights: Annotated[Lsq | FloatWeights, about("what its weights become")] = Lsq()
    inputs: ClassVar[tuple[str, ...]] = ()
    delays: ClassVar[tuple[int, ...]] = (0,)
    add: ClassVar[str] = ""
    recurrent: ClassVar[Literal[True]] = True
    bias: ClassVar[bool] = True
    norm: ClassVar[Literal["none"]] = "none"
    groups: ClassVar[int] = 1
    window: ClassVar[None] = None

    @property
    def rows(self) -> int:
        """How many rows of weights it has: one a neuron."""
        return self.size


class Conv(_Weighted, tag="conv", kw_only=True):
    """A convolution; what other layers learn of each neuron it learns of each channel."""

    channels: Annotated[int, within(1, 65_536, "how many it makes")]
    kernel: Kernel
    inputs: Source = ()
    shape: Shape = ()
    stride: Annotated[Stride, Meta(max_length=2, description="as the kernel; 1 unless given")] = ()
    padding: Padding = ()
    groups: Annotated[int, within(1, 65_536, "each group of channels sees its share of the inputs'")] = 1
    add: Add = ""
    bias: Bias = True
    norm: Norm = "none"
    delays: ClassVar[tuple[int, ...]] = (0,)
    recurrent: ClassVar[Literal[False]] = False

    @property
    def window(self) -> Window:
        """What its kernels see."""
        return Window(self.shape, self.kernel, self.stride, self.padding)

    @property
    def rows(self) -> int:
        """How many rows of weights it has: one a channel."""
        return self.channels

    @property
    def size(self) -> int:
        """How many neurons it has."""
        return self.channels * self.window.positions


class Pool(_Layer, tag="pool", kw_only=True):
    """Sums over windows, without weights and neurons. An average is a sum: the next scale takes the division up."""

    kernel: Kernel
    inputs: Source = ()
    shape: Shape = ()
    stride: Annotated[Stride, Meta(max_length=2, description="as the kernel, which it equals unless given")] = ()
    padding: Padding = ()
    delays: ClassVar[tuple[int, ...]] = (0,)
    add: ClassVar[str] = ""
    recurrent: ClassVar[Literal[False]] = False
    norm: ClassVar[Literal["none"]] = "none"

    @property
    def window(self) -> Window:
        """What is added up."""
        return Window(self.shape, self.kernel, self.stride, self.padding)

    @property
    def rows(self) -> int:
        """One a neuron."""
        return self.size

    @property
    def size(self) -> int:
        """How many sums it makes."""
        return self.shape[0] * self.window.positions


Weighted = Dense | Conv | Reservoir
Windowed = Conv | Pool
Layer = Dense | Conv | Pool | Reservoir
