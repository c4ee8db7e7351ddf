"""How a layer keeps its states: [layer.states], by their quantizer. qat/quantizers/states.py has what each does."""

from typing import Annotated, ClassVar, Literal

from quantal.qat.config.parts.fields import Part, about, tag, within

Wide = Annotated[int, within(2, 16, "bits of the membrane's code")]
Tabled = Annotated[int, within(1, 8, "bits of the membrane's code")]
Gradient = Annotated[Literal["clip", "identity"], about("of a state beyond its levels: cut, or passed on as it is")]


Range = Annotated[
    float,
    within(1, 1024, "thresholds that an evenly spaced state spans at first; what an li readout reaches, for the loss"),
]


class _States(Part, tag_field="quantizer"):
    number: ClassVar[str] = "membrane"

    @property
    def quantizer(self) -> str:
        """Its name, the row of STATE_QUANTIZERS that it is, or float."""
        return tag(type(self))

    @property
    def quantized(self) -> bool:
        """Whether they are codes."""
        return not isinstance(self, FloatStates)

    def width(self, state: str) -> int:
        """The bits of a state's code: of the "membrane", of the "current" or of the "adaptation"."""
        given: int | None = getattr(self, state)
        return self.width("membrane") if given is None else given

    @property
    def tabled(self) -> bool:
        """Whether the membrane has a table of levels; else they are evenly spaced."""
        return isinstance(self, _Table)


class _Codes(_States):
    """Each state has a width of its own. Current and adaptation are evenly spaced over the range."""

    current: Annotated[int, within(2, 16, "bits of a synapse's current; the membrane's unless given")] | None = None
    adaptation: Annotated[int, within(2, 16, "bits of an adaptation; the membrane's unless given")] | None = None
    range: Range = 2.0


class Uniform(_Codes, tag="uniform"):
    """Levels a power of two of accumulator units apart, so that they span the range at first."""

    membrane: Wide = 8


class Shared(_Codes, tag="shared"):
    """Levels in the units of the weights (MINT, arXiv 2305.09850)."""

    membrane: Wide = 8


class _Table(_Codes):
    membrane: Tabled = 8


class Clipped(_Table):
    """Levels beyond which a gradient may end."""

    gradient: Gradient = "clip"


class Squat(Clipped, tag="squat"):
    """SQUAT's levels (arXiv 2404.19668), the denser the nearer to the threshold, as its authors' code has them."""


class SquatThreshold(Clipped, tag="squat-threshold"):
    """The same, centred on the threshold."""


class SquatZero(Clipped, tag="squat-zero"):
    """The same, centred on 0."""


class Aligned(Clipped, tag="aligned"):
    """0 is a level, a border lies at the threshold, levels near it are denser, the range is learned."""


class DqStates(_Table, tag="dq"):
    """Differentiable quantization: a sum of sigmoids with a learned range."""


class FloatStates(_States, tag="float"):
    """Full precision, for comparison: it cannot be exported."""

    range: Range = 2.0
    membrane: ClassVar[str] = "float"
    current: ClassVar[None] = None
    adaptation: ClassVar[None] = None


States = Uniform | Shared | Squat | SquatThreshold | SquatZero | Aligned | DqStates | FloatStates

AT_ONCE = ("shared", "aligned")
"""Those that hold what a reset leaves, where neurons are reset at once: they fire before they are quantized."""
