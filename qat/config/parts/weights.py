"""The weights of a layer: [layer.weights], by their quantizer. qat/quantizers/weights.py has what each does."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from quantal.qat.config.parts.fields import Part, about, tag, within

Standardize = Annotated[bool, about("rows are brought to mean 0 and deviation 1 before they are quantized")]


class _Weights(Part, tag_field="quantizer"):
    number: ClassVar[str] = "bits"
    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {"learned": {"quantizer": "lsq", "bits": "learned"}}
    gain: Annotated[float, within(1e-3, 1e3, "of the weights at first; in a reservoir of recurrent ones alone")] = 1.0

    @property
    def quantizer(self) -> str:
        """Its name, the row of WEIGHT_QUANTIZERS that it is, or float."""
        return tag(type(self))

    @property
    def quantized(self) -> bool:
        """Whether they are codes."""
        return not isinstance(self, FloatWeights)

    @property
    def learns_bits(self) -> bool:
        """Whether its bits are learned, within [training] budget."""
        return getattr(self, "bits", 0) == "learned"


class _Codes(_Weights):
    scale: Annotated[Literal["row", "layer"], about("one scale a row or one a layer; a readout has one")] = "row"


class Lsq(_Codes, tag="lsq"):
    """−Q … Q, or ±1 of one bit, with a learned step (arXiv 1902.08153)."""

    bits: Annotated[int, within(1, 8, "of a code; or learned, within [training] budget")] | Literal["learned"] = 4
    standardize: Standardize = False


class Tquant(_Codes, tag="tquant"):
    """{−1, 0, 1}, started by TernaryQuant's rule (arXiv 2306.17442)."""

    bits: ClassVar[int] = 2
    standardize: Standardize = False


class Mquant(_Codes, tag="mquant"):
    """{−1, 0, 1}, started by the means' rule (arXiv 2306.17442)."""

    bits: ClassVar[int] = 2
    standardize: Standardize = False


class Maqd(_Codes, tag="maqd"):
    """Standardized rows, scaled round-clip (arXiv 2403.14999)."""

    bits: Annotated[int, within(2, 8, "of a code")] = 4
    standardize: ClassVar[bool] = False  # its quantizer does


class Dq(_Codes, tag="dq"):
    """Differentiable quantization: sums of sigmoids (arXiv 1911.09464), borders midway between levels."""

    bits: Annotated[int, within(1, 8, "of a code")] = 4
    standardize: Standardize = False


class DqKmeans(_Codes, tag="dq-kmeans"):
    """The same with borders between clusters of the weights."""

    bits: Annotated[int, within(1, 8, "of a code")] = 4
    standardize: Standardize = False


class DqPower(_Codes, tag="dq-power"):
    """The same with levels of at most two powers of two."""

    bits: Annotated[int, within(2, 4, "of a code")] = 4
    standardize: Standardize = False


class FloatWeights(_Weights, tag="float"):
    """Full precision, for comparison: it cannot be exported."""

    standardize: Standardize = False
    bits: ClassVar[str] = "float"
    scale: ClassVar[str] = "row"


Weights = Lsq | Maqd | Tquant | Mquant | Dq | DqKmeans | DqPower | FloatWeights
