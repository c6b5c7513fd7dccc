"""The verbs, each a function that typer calls; each imports what it needs when it is called.

Comes in: parsed options. May import: everything, inside its functions, so that `--help` starts fast.
"""
