"""Open places, hubs and registries; write documents whole. Paths, URLs and addresses name them.

Opens a connection only for a URL or an address.
"""
