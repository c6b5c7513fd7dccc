"""The command line. Only this code prints, exits, imports typer or knows exporters.

Comes in: the words after `robustcheck`. May import: everything. A verb is a function in `verbs/`.
"""

from .app import main
