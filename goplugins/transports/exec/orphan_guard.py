"""What ends plugin processes when their host can't: a shell that waits for the host's end.

A killed host closes its pipes and does nothing else. Most plugins leave at the end of their stdin; for those that
don't, the guardian holds the reading end of one more pipe, and kills the groups it was told of once that pipe ends.
It is a shell, since a host's ``sys.executable`` need not be a Python, and since it starts in a millisecond.
(A parent's death signal would do less: it comes when the *thread* that started a process ends, reaches no
grandchildren, and can't be asked for without code that runs between fork and exec.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading

from goplugins.transports.exec import sigpipe
from goplugins.transports.exec.gevent_popen import popen_class

__all__ = ["OrphanGuard"]

logger = logging.getLogger("goplugins.exec")

_SHELL = "/bin/sh"
_SCRIPT = """
groups=
while read -r what group; do
    case $what in
    +) groups="$groups $group" ;;
    -)
        rest=
        for one in $groups; do [ "$one" = "$group" ] || rest="$rest $one"; done
        groups=$rest
        ;;
    esac
done
[ -n "$groups" ] || exit 0
for one in $groups; do kill -s TERM -- "-$one"; done
sleep 1
for one in $groups; do kill -s KILL -- "-$one"; done
"""


class OrphanGuard:
    """Protects the machine from plugin processes without a host; one a process, started at first need.

    Used by the threads that start plugins and by the keeper's, never by a caller's: no signal's handler interrupts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._warned = False

    def protect(self, group: int) -> None:
        """Has the group killed when this process ends, however it ends."""
        # The lock is held over the guardian's start: whoever comes second must not go on unprotected.
        with self._lock:
            self._groups.add(group)
            self._tell(f"+ {group}\n")

    def release(self, group: int) -> None:
        """Forgets a group; called before its number can become another's."""
        with self._lock:
            self._groups.discard(group)
            if self._pipe >= 0:
                self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        """Writes to the guardian, and to a new one if it is gone or stuck. Expects the lock; never blocks."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                if sigpipe.write(self._pipe, line.encode()) == len(line):
                    return
        self._let_go()
        try:
            self._start()
        except OSError as exc:
            self._let_go()
            if not self._warned:
                self._warned = True
                logger.warning("no guardian (%s): plugins that ignore their stdin's end outlive a killed host", exc)

    def _start(self) -> None:
        reader, self._pipe = os.pipe()
        try:
            self._shell = popen_class()(
                [_SHELL, "-c", _SCRIPT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,  # no signal to the host's group or terminal may reach it
            )
        finally:
            os.close(reader)
        os.set_blocking(self._pipe, False)
        sigpipe.write(self._pipe, "".join(f"+ {group}\n" for group in self._groups).encode())

    def _let_go(self) -> None:
        pipe, self._pipe = self._pipe, -1
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.kill()
            shell.wait()
        if pipe >= 0:
            os.close(pipe)

    def leave(self) -> None:
        """Has the guardian outlive this process, without a warning that it does."""
        if self._shell is not None:
            self._shell.returncode = 0

    def after_fork_in_child(self) -> None:
        """Lets go of the parent's guardian, which waits for the parent's end and not for this process's."""
        self._lock = threading.Lock()
        self._groups = set()
        self.leave()
        self._shell = None
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)
