"""The forms of a planted encoder: what `studies/forms.py` makes, checks and writes down."""
