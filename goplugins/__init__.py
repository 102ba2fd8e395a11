"""A typed, blocking plugin client."""
