"""The wires: one module each, all behind :class:`goplugins.transports.interface.Sender`."""
