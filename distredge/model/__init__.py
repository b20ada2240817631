"""The model: an ONNX graph, its row arithmetic and its sub-models."""
