"""ONNX Runtime: devices, sessions, forward passes.

Comes in: an opened model and pixels; out go representations (image, feature). May import: model and what is below it.
"""
