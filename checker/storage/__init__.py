"""Open places, hubs and registries; write documents whole. Paths, URLs and addresses name them.

May import: text, errors. Opens a connection only for a URL or an address.
"""
