"""The wires: one module each, all behind :class:`goplugins.runtime.call.Sender`."""
