"""REST over HTTP: requests without an envelope, written from the operations of a plugin's configuration."""
