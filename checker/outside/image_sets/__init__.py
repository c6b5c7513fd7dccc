"""List the images of a folder, a manifest, an archive or a table."""
