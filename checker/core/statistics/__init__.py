"""Compute the statistics, their bounds, and mergeable sums. NumPy only.

Comes in: representations (image, feature), float. May import: evidence (the records it fills), text, errors.
"""
