"""The transports: one module or package each, all behind :class:`goplugins.transports.interface.Sender`."""
