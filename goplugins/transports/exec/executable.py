"""The program that a plugin runs: its path, the check of its SHA-256, and the reasons why it can't be run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import shutil
import stat
from collections.abc import Iterator, Mapping

from goplugins.errors import LocalResourceError, PluginConnectionError, Replay, missing_resource
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline

_DESCRIPTORS = "/proc/self/fd"
_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Non-blocking: opening a FIFO in the program's place must not wait for a writer."""

_SETTLED = 3.0
"""Seconds after which a further change of a file shows in its times: file systems count in steps of up to two."""

_FIXES = {
    errno.ENOENT: "install it, or correct `executable`",
    errno.ENOTDIR: "correct `executable`",
    errno.EISDIR: "`executable` is a directory: name the program in it",
    errno.EACCES: "it must be a file that this user may execute, on a file system that allows it",
    errno.EPERM: "this user lacks the permission",
    errno.ENOEXEC: "a script begins with a line like #!/bin/sh, a binary must be one for this machine",
    errno.ELOOP: "its symbolic links form a loop",
    errno.ENAMETOOLONG: "correct `executable`",
}
"""Errors that last until an operator fixes them, and how: a retry would fail again."""

_Stamp = tuple[int, ...]


class Executable:
    """One plugin's program.

    A pinned program is hashed through the descriptor that is then executed, so a file that replaces it meanwhile is
    not run. The pin covers neither a script's interpreter nor what the program loads. A user who may write *into* the
    file can defeat the pin between check and start: protect the file and its directory. A script's interpreter gets
    the descriptor's name as the name of the script. Without /proc the path is executed, and the check holds only as
    long as no other user can replace the file.

    The digest is cached with the file's stamp (device, inode, size, and the times of its last change in nanoseconds)
    and used again while the file that was opened for this start has the same stamp. A user who can only replace the
    file can't forge the stamp: the new file has another inode, or a later ctime, which no user can set. A user who
    could forge it (root, through the raw device or the clock; a malicious file server) could as well swap the bytes
    between check and start. The digest of a file that changed less than 3 s ago is not cached: a second write within
    one step of the file system's clock would leave the same stamp.

    Args:
        executable: as configured.
        work_dir: the directory that it will run in; None for the host's.
        sha256: its expected SHA-256 in hexadecimal; empty for no check.
        clock: source of time, for the age of a file's last change.
    """

    def __init__(self, executable: str, work_dir: str | None, sha256: str, clock: Clock) -> None:
        self._executable = executable
        self._work_dir = work_dir
        self._sha256 = sha256.lower()
        self._clock = clock
        self._known: tuple[_Stamp, str] | None = None

    def find(self, env: Mapping[str, str]) -> str:
        """Its path: as in a shell, a name without a slash is searched in PATH.

        Raises:
            PluginConnectionError: it is not in PATH.
        """
        if "/" in self._executable:
            # A relative path counts from the working directory of the new process, as for Popen.
            return os.path.join(self._work_dir or "", self._executable)
        found = shutil.which(self._executable, path=env.get("PATH", os.defpath))
        if found is None:
            raise self._lasting("it is not in PATH; install it, or write its full path as `executable`")
        return os.path.abspath(found)

    def check_present(self, env: Mapping[str, str]) -> None:
        """Checks that there is a file to execute, without opening it.

        Raises:
            PluginConnectionError: there is none, or this user may not execute it.
        """
        path = self.find(env)
        code = 0 if os.path.isfile(path) and os.access(path, os.X_OK) else errno.EACCES
        if not os.path.exists(path):
            code = errno.ENOENT
        if code:
            raise self.failure(OSError(code, os.strerror(code)), path)

    @contextlib.contextmanager
    def checked(self, path: str, deadline: Deadline) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The path to execute, and the descriptors that the process must inherit for it.

        Raises:
            PluginConnectionError: its SHA-256 is not the expected one, or was not computed before the deadline.
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
            raise self._lasting("it is no regular file, so its SHA-256 can't be checked; correct `executable`")
        stamp = _stamp(status)
        known = self._known
        if known is not None and known[0] == stamp:
            found = known[1]
        else:
            found = self._hash(descriptor, deadline)
            if _stamp(os.fstat(descriptor)) != stamp:
                raise PluginConnectionError(f"{self._executable} was not started: it changed while it was hashed")
            if self._clock.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
                self._known = (stamp, found)
        if not hmac.compare_digest(found, self._sha256):
            raise PluginConnectionError(
                f"{self._executable} was not started: its SHA-256 is {found}, options.sha256 is {self._sha256}",
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
                    f"{self._executable} was not started: hashing it took longer than connection.connection_timeout"
                )
        return digest.hexdigest()

    # --- errors ------------------------------------------------------------------------------------------------

    def failure(self, exc: Exception, path: str) -> PluginConnectionError | LocalResourceError:
        """The error for a failed start; with a fix if the failure is lasting."""
        code = exc.errno if isinstance(exc, OSError) else None
        lacks = "the system's limit of processes is reached" if code == errno.EAGAIN else missing_resource(exc)
        if lacks:
            return LocalResourceError(f"{self._executable} could not be started: {lacks} ({exc})")
        reason = str(exc)
        if isinstance(exc, OSError) and exc.strerror:
            reason = exc.strerror
            if isinstance(exc.filename, str) and not exc.filename.startswith(_DESCRIPTORS):
                reason = f"{exc.strerror}: {exc.filename}"
        if code not in _FIXES:
            return PluginConnectionError(f"{self._executable} could not be started: {reason}")
        return self._lasting(f"{reason}; {self._fix(code, path)}")

    def _fix(self, code: int, path: str) -> str:
        if code in {errno.ENOENT, errno.ENOTDIR}:
            if self._work_dir is not None and not os.path.isdir(self._work_dir):
                return "`work_dir` is no directory: create or correct it"
            if os.path.exists(path):
                return "the program exists, but the interpreter or loader that it names does not: install that"
        if code == errno.EACCES and os.path.isdir(path):
            code = errno.EISDIR
        return _FIXES[code]

    def _lasting(self, reason: str) -> PluginConnectionError:
        return PluginConnectionError(
            f"{self._executable} could not be started: {reason}", retryable=False, replay=Replay.NEVER
        )


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
