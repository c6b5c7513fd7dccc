"""Open places, hubs and registries by paths, URLs and addresses; write complete documents.

Opens a connection only for a URL or an address.
"""
