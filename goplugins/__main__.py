"""``python -m goplugins``."""

from __future__ import annotations

import sys

from goplugins.cli import main

if __name__ == "__main__":
    sys.exit(main())
