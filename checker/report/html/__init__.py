"""The HTML form: what it says (model, views), its pictures (charts, thumbnails), and its page.

Comes in: a `Report`. May import: the rest of report and what is below it; thumbnails also images.
"""
