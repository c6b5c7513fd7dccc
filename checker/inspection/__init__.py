"""Inspect a model file: what it has, whether it can pass. May import measure, runtime and what is below them."""
