"""Every field of the configuration, and what two of its values change."""
