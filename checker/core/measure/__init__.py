"""Turn a model and photos into evidence: the one loop, its jobs, and the run by reference arithmetic.

Comes in: a `Job`, and what opens its images. Judges nothing but whether enough is measured.
"""
