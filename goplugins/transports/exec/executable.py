"""The program that a plugin runs: where it is, whether it is the pinned one, and why it can't be run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import shutil
import stat
from collections.abc import Iterator, Mapping

from goplugins.errors import PluginConnectionError, Replay
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline

__all__ = ["Executable"]

_DESCRIPTORS = "/proc/self/fd"
_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""A FIFO in the program's place must not hold us until somebody writes to it."""

_SETTLED = 3.0
"""Seconds after a file's last change from which its stamp is unmistakable: file systems count in steps of up to two."""

_FIXES = {
    errno.ENOENT: "install it, or correct `executable`",
    errno.ENOTDIR: "correct `executable`",
    errno.EISDIR: "`executable` is a directory: name the program in it",
    errno.EACCES: "it must be a file that this user may execute, on a file system that allows it",
    errno.EPERM: "this user may not do that",
    errno.ENOEXEC: "a script begins with a line like #!/bin/sh, a binary must be one for this machine",
    errno.ELOOP: "its symbolic links go in a circle",
    errno.ENAMETOOLONG: "correct `executable`",
}
"""What stays as it is until somebody mends it: another attempt would only fail once more."""

_Stamp = tuple[int, ...]


class Executable:
    """One plugin's program.

    A pinned program is hashed through the descriptor that is then executed, so that a file put in its place
    meanwhile is not run. The pin does not cover a script's interpreter, nor what a program loads. Who may write
    *into* the file can beat the pin between check and start: keep it and its directory out of others' hands. A
    script is run by its interpreter under the descriptor's name, not its own. Without /proc the path is executed,
    and the check holds only as far as nobody can replace the file.

    The digest is kept with the file's stamp (device, inode, size, and the times of its last change, to the
    nanosecond) and used again while the file that was opened for this start bears the same stamp. Whoever can only
    replace the file can't forge that: the new file has another inode, or a later ctime, which no user can set. Who
    could forge it (root, by way of the raw device or the clock; a file server that lies) could as well swap the
    bytes between check and start. A file that changed a moment ago is not remembered: a second write within one step
    of the file system's clock would leave the same stamp.

    Args:
        executable: as configured.
        work_dir: the directory that it will run in; None for ours.
        sha256: what it must hash to, in hexadecimal; empty for anything.
        clock: tells how old a file's last change is.
    """

    def __init__(self, executable: str, work_dir: str | None, sha256: str, clock: Clock) -> None:
        self._executable = executable
        self._work_dir = work_dir
        self._sha256 = sha256.lower()
        self._clock = clock
        self._known: tuple[_Stamp, str] | None = None

    def find(self, env: Mapping[str, str]) -> str:
        """The path: as for a shell, a name without a slash is looked for in PATH.

        Raises:
            PluginConnectionError: it is not there.
        """
        if "/" in self._executable:
            # Popen looks from the directory that the process will start in; so must the check of what it runs.
            return os.path.join(self._work_dir or "", self._executable)
        found = shutil.which(self._executable, path=env.get("PATH", os.defpath))
        if found is None:
            raise self._refusal("it is not in PATH; install it, or write its whole path as `executable`")
        return os.path.abspath(found)

    @contextlib.contextmanager
    def checked(self, path: str, deadline: Deadline) -> Iterator[tuple[str, tuple[int, ...]]]:
        """What to execute, and the descriptors that this takes.

        Raises:
            PluginConnectionError: it is not the pinned program, or was not read by the deadline.
            OSError: it can't be opened.
        """
        if not self._sha256:
            yield os.path.abspath(path), ()
            return
        descriptor = os.open(path, _OPEN)
        try:
            self._check(descriptor, deadline)
            if os.path.isdir(_DESCRIPTORS):
                yield f"{_DESCRIPTORS}/{descriptor}", (descriptor,)
            else:
                yield os.path.abspath(path), ()
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int, deadline: Deadline) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise self._refusal("it is no regular file, so its SHA-256 can't be checked; correct `executable`")
        stamp = _stamp(status)
        known = self._known
        if known is not None and known[0] == stamp:
            found = known[1]
        else:
            found = self._hash(descriptor, deadline)
            if _stamp(os.fstat(descriptor)) != stamp:
                raise PluginConnectionError(f"{self._executable} was not started: it changed while it was checked")
            if self._clock.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
                self._known = (stamp, found)
        if not hmac.compare_digest(found, self._sha256):
            raise PluginConnectionError(
                f"{self._executable} was not started: its SHA-256 is {found}, options.sha256 says {self._sha256}",
                retryable=False,
                replay=Replay.NEVER,
                details={"sha256": found},
            )

    def _hash(self, descriptor: int, deadline: Deadline) -> str:
        digest = hashlib.sha256()
        while chunk := os.read(descriptor, _CHUNK):
            digest.update(chunk)
            if deadline.remaining() <= 0:
                raise PluginConnectionError(
                    f"{self._executable} was not started: its SHA-256 took longer than connection.connection_timeout"
                )
        return digest.hexdigest()

    # --- what went wrong ---------------------------------------------------------------------------------------

    def failure(self, exc: Exception, path: str) -> PluginConnectionError:
        """Says why it could not be started, and how to mend what will not mend itself."""
        code = exc.errno if isinstance(exc, OSError) else None
        reason = str(exc)
        if isinstance(exc, OSError) and exc.strerror:
            reason = exc.strerror
            if isinstance(exc.filename, str) and not exc.filename.startswith(_DESCRIPTORS):
                reason = f"{exc.strerror}: {exc.filename}"
        if code not in _FIXES:
            return PluginConnectionError(f"{self._executable} could not be started: {reason}")
        return self._refusal(f"{reason}; {self._fix(code, path)}")

    def _fix(self, code: int, path: str) -> str:
        if code in {errno.ENOENT, errno.ENOTDIR}:
            if self._work_dir is not None and not os.path.isdir(self._work_dir):
                return "`work_dir` is no directory: make it, or correct it"
            if os.path.exists(path):
                return "the program is there, the interpreter or loader that it names is not: install that"
        if code == errno.EACCES and os.path.isdir(path):
            code = errno.EISDIR
        return _FIXES[code]

    def _refusal(self, reason: str) -> PluginConnectionError:
        return PluginConnectionError(
            f"{self._executable} could not be started: {reason}", retryable=False, replay=Replay.NEVER
        )


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
