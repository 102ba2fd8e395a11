"""What is known to hurt where plugins are called: found before it hurts, by ``goplugins doctor`` or at the first call.

At run time each finding is one line of the logger ``goplugins.doctor``, once a process.
"""

from __future__ import annotations

from goplugins.doctor.checks import Finding, examine
from goplugins.doctor.host import Host, host_here
from goplugins.doctor.warning import bounded_here, warn_once

__all__ = ["Finding", "Host", "bounded_here", "examine", "host_here", "warn_once"]
