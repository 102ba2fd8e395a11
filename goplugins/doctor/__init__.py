"""Known problems of deployments, found by ``goplugins doctor`` or, as warnings, with the first call in a process."""

from __future__ import annotations

from goplugins.doctor.checks import Finding, examine
from goplugins.doctor.host import Host
from goplugins.doctor.this_process import bounded_here, host_here, warn_once

__all__ = ["Finding", "Host", "bounded_here", "examine", "host_here", "warn_once"]
