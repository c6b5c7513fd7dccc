"""Decode, preprocess, judge and digest photos. Never runs a model, and opens no set itself."""
