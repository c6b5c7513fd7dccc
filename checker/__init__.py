"""Reads an ONNX file, measures the evidence, judges it. Never imports torch; opens no connection but to a Ray cluster.

What users import is in `robustcheck_onnx` itself (face/); here each room's `__init__.py` lists what other rooms import.
"""
