"""Serving answers chat requests over HTTP and websockets, and records the votes on its replies."""
