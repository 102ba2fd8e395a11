"""The wires: one module each, all behind :class:`goplugins._call.Sender`."""
