"""Fetch, read and understand an ONNX file. Input, representation, contract and preprocessing are found; nothing runs.

Comes in: a path, a URL, or the model itself. May import: images (preprocessing), storage, evidence, text, errors.
"""
