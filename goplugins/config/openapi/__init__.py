"""OpenAPI specifications to the configuration of a plugin, and to classes for its requests and replies."""
