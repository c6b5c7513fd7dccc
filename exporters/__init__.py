"""Writes ONNX files that carry their preprocessing and meaning. Needs the extra `export`."""
