"""Faces without logic: pages and, later, the server."""
