"""Reads an ONNX file, measures the evidence, judges it. Never imports torch, never opens a connection."""
