"""The verbs, as functions that typer calls. Each imports what it needs when it is called.

Comes in: parsed options. May import: everything, inside its functions, so that `--help` starts fast.
"""
