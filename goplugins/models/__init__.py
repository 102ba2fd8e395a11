"""Values that travel through the public API."""
