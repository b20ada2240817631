"""How each ONNX operator behaves when only some rows of its output are wanted.

A rule answers four questions: where the rows of its output are (`axes`), may the operator be split by rows and why not
(`verdict`), which region of an input an output region needs (`needs`), and which nodes compute that output region from
those input regions (`emit`). `RULES` maps operator types to rules; an operator without one belongs to the head, with
its name in the reason. Semantics follow the ONNX operator specifications (Conv-11, MaxPool-12, AveragePool-11, ...).
"""

from __future__ import annotations

from distredge.model.nodes import NodeList, Operator
from distredge.model.operators.base import (
    Axes,
    Kind,
    Rule,
    Verdict,
    axes_by_rank,
    head,
    region_shape,
    region_size,
    whole,
)
from distredge.model.operators.moving import (
    Concat,
    DepthToSpace,
    Expand,
    Gather,
    Pad,
    Slice,
    SpaceToDepth,
    Split,
    Tile,
)
from distredge.model.operators.pointwise import AlongAxis, GatherAlong, LastAxisProduct, NewAxis, PerRow, Pointwise
from distredge.model.operators.reductions import ONLY_LOCAL, PARTIAL_SUMS, Reduction
from distredge.model.operators.reshape import Reshape, Squeeze, Transpose
from distredge.model.operators.resize import Resize
from distredge.model.operators.windows import Transposed, Windowed

__all__ = [
    "RULES",
    "Axes",
    "Kind",
    "Reduction",
    "Rule",
    "Verdict",
    "axes_of",
    "region_shape",
    "region_size",
    "verdict_of",
    "whole",
]

_POINTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu "
    "Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POINTWISE, Pointwise()),
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), Windowed()),
    "ConvTranspose": Transposed(),
    "BatchNormalization": PerRow(),
    "LRN": PerRow(),
    "CastLike": PerRow(),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), AlongAxis(-1, to_last=True)),
    **dict.fromkeys(("LpNormalization", "TopK"), AlongAxis(-1)),
    **dict.fromkeys(("CumProd", "CumSum"), AlongAxis(None, given_at=1)),
    "OneHot": NewAxis(-1),
    "GatherElements": GatherAlong(),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), AlongAxis(-1)),
    "MatMul": LastAxisProduct(),
    "Concat": Concat(),
    "Slice": Slice(),
    "Split": Split(),
    "Pad": Pad(),
    "Gather": Gather(),
    "Expand": Expand(),
    "Tile": Tile(),
    "SpaceToDepth": SpaceToDepth(),
    "DepthToSpace": DepthToSpace(),
    "Resize": Resize(),
    "Reshape": Reshape(),
    "Transpose": Transpose(),
    "Squeeze": Squeeze(),
    "Unsqueeze": Squeeze(),
    **dict.fromkeys((*PARTIAL_SUMS, *ONLY_LOCAL, "GlobalLpPool"), Reduction()),
}


HEAD_REASONS: dict[str, str] = {
    "Flatten": "flattens the rows",
    "Gemm": "is fully connected",
    **dict.fromkeys(
        ("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"),
        "normalises over all rows, by parameters that are not constant or in a type that is not float32 or float64",
    ),
    "LSTM": "is recurrent",
    "GRU": "is recurrent",
    "RNN": "is recurrent",
}
"""Why known operators stay whole; any other without a rule is named as such."""


def verdict_of(graph: NodeList, op: Operator) -> Verdict:
    """Whether an operator may be split by rows; an operator without a rule goes to the head by name."""
    rule = RULES.get(op.op_type)
    if rule is None:
        return head(f"{op.op_type} {HEAD_REASONS.get(op.op_type, 'has no row rule')}")
    if not op.activations:
        return head(f"{op.op_type} of constants only")
    return rule.verdict(graph, op)


def axes_of(graph: NodeList, op: Operator, output: str) -> Axes:
    """Row and column axis of an output, followed from those of the inputs; none where they are lost."""
    rule = RULES.get(op.op_type)
    shape = graph.tensors[output].shape
    found = Axes(None, None) if rule is None or not op.activations else rule.axes(graph, op, output)
    rows, cols = (axis if axis is not None and 0 <= axis < len(shape) else None for axis in found)
    usual = axes_by_rank(len(shape))
    single = usual.rows is not None and all(axis is None or shape[axis] == 1 for axis in (*usual, rows, cols))
    if single:
        # One row has no place of its own. Of a vector whose axes were taken apart it stands where rows usually are.
        return usual
    # Columns may stay where rows are gone: the mean over rows alone.
    return Axes(rows, None if cols == rows else cols)
