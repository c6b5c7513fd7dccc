"""Name, list, decode, preprocess, judge and digest image sets. Never runs a model.

May import: storage, evidence, text, errors.
"""
