"""The model: an ONNX graph, its row arithmetic and its sub-models."""

AS_INPUT = "@input"
"""End of the name of a constant that is an *input* of a sub-model (`model.segments`), fed from where it is held.

Engines copy initializers, and copy them again to pack them. The matrices of fully connected layers are most of a
classifier's weights and are read once per image: fed as inputs, VGG-16's head loads in 4 ms instead of 1 s, takes 9 MB
beside its weights instead of 490, and runs faster (28 against 37 ms; ONNX Runtime 1.31, one x86-64 core).
"""
