"""The HTML form: its page (page, templates), its pictures (charts, thumbnails), and the reference suite.

Comes in: a `Report`. May import: the rest of report and what is below it; thumbnails also images.
"""
