"""Threshold profiles: what they are, how they are derived, the tables they rest on."""
