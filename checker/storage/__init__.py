"""Paths, URLs and addresses of hubs and registries; files read from there, and documents written whole.

May import: text, errors. Opens a connection only for a URL or an address.
"""
