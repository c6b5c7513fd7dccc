"""The forms of a planted encoder: what `benchmarks/forms.py` makes, checks and writes down."""
