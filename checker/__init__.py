"""Reads an ONNX file, measures the evidence, judges it. Imports no torch; opens connections only to what is named.

What users import is in `robustcheck_onnx` itself (face/); here each room's `__init__.py` lists what other rooms import.
"""
