"""Exported networks whose inputs and outputs are tensors: ONNX graphs, SavedModels."""
