"""Write the HTML form. It has a page (page, templates), pictures (charts, thumbnails), and the reference suite.

Comes in: a `Report`. May import: the rest of report and what is below it; thumbnails also images.
"""
