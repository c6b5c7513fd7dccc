"""Hostile input, made by changing sound files: what reads strangers' bytes must end with an error of its own."""
