"""ONNX files in and out: a table from ONNX operations to ATen nodes, and stages as ONNX files."""
