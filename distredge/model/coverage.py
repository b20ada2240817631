"""What becomes of every operator that ONNX has: the list of `docs/models.md`.

The most that may be hoped for. A rule may send an operator to the head where its attributes or axes demand that, and
says why; `distredge show` has the reason for every operator of a model.
"""

from __future__ import annotations

import enum

from distredge.model.normalisations import NORMALISATIONS
from distredge.model.operators import RULES
from distredge.model.operators.reductions import partial_kinds


class Coverage(enum.Enum):
    """What becomes of an operator."""

    ROWS = "split by rows"
    PARTIAL = "split by partial sums"
    FOLDED = "folded or rewritten when the model is loaded"
    HEAD = "head"
    REFUSED = "refused"


_FOLDED = frozenset(
    "BlackmanWindow Constant ConstantOfShape Dropout EyeLike HammingWindow HannWindow If Loop MelWeightMatrix Range "
    "Shape Size Upsample".split()
)
"""`If` with a condition, and `Loop` with a number of rounds, that are constant, else they are refused; the others are
computed, or replaced, before anything is planned."""

_HEAD = frozenset(
    "AffineGrid Attention Bernoulli BitCast CausalConvWithState CenterCropPad Col2Im Compress DFT DeformConv "
    "DequantizeLinear Det Einsum Flatten GRU GatherND Gemm GridSample LSTM LinearAttention MaxRoiPool MaxUnpool "
    "Multinomial NegativeLogLikelihoodLoss RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike "
    "ReverseSequence RoiAlign RotaryEmbedding STFT Scatter ScatterElements ScatterND SoftmaxCrossEntropyLoss SwiGLU "
    "TensorScatter Trilu".split()
)

_REFUSED = frozenset(
    "ConcatFromSequence ConvInteger DynamicQuantizeLinear ImageDecoder MatMulInteger NonMaxSuppression NonZero "
    "Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul QuantizeLinear RegexFullMatch Scan "
    "SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
    "SplitToSequence StringConcat StringNormalizer StringSplit TfIdfVectorizer Unique".split()
)
"""Control flow and shapes that depend on data, quantised graphs, sequences, texts."""


def coverage_of(op_type: str) -> Coverage | None:
    """What becomes of an operator of ONNX's own set; None for one that nobody has thought about."""
    if op_type in NORMALISATIONS or op_type in partial_kinds():
        # Layer normalisation over one axis is row-local, over rows it becomes means.
        return Coverage.PARTIAL
    if op_type in RULES:
        return Coverage.ROWS
    for names, what in ((_FOLDED, Coverage.FOLDED), (_HEAD, Coverage.HEAD), (_REFUSED, Coverage.REFUSED)):
        if op_type in names:
            return what
    return None
