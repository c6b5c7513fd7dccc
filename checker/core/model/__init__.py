"""Read and understand an ONNX file: input, representation, contract and preprocessing. Nothing of it runs.

Comes in: the path of a file. May import: images (preprocessing) and the records of the core.
"""
