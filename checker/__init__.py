"""Read an ONNX file, measure the evidence, judge it. Imports no torch; opens connections only to what is named.

What users import is in `robustcheck_onnx` itself (face/).
"""
