"""An image set: named, listed, decoded, preprocessed, judged for sanity, digested. Never runs a model.

May import: storage, evidence, text, errors.
"""
