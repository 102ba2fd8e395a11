"""Whether others could have put something into our way: who may write to a file, and to all that leads there."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from goplugins.errors import ConfigFileError

__all__ = ["is_unsafe", "read_safely", "safe_directory", "safe_file", "safe_program"]

_UNSAFE = "unsafe"
_MOST_LINKS = 40
_MOST_BYTES = 1 << 20
"""No manifest is longer."""


def safe_directory(path: str) -> str:
    """A directory's real path, once it is known that only root and this user can write to it.

    Every directory on the way counts, and so does every symbolic link: they must belong to root or to the effective
    user, and neither group nor others may write. In a directory on the way the sticky bit will do (/tmp): others can
    add to it, but can't take away what is ours. On a file system that is mounted read-only nobody can write.

    Raises:
        ConfigFileError: others can write there, it is no directory, or it is not there.
    """
    real, found = _follow(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigFileError("is no directory", path=path, fix="correct the name")
    _check(real, found, path)
    return real


def safe_file(path: str) -> str:
    """A regular file's real path, under the conditions of :func:`safe_directory`.

    Raises:
        ConfigFileError: others can write to it or to what leads there, it is no regular file, or not there.
    """
    real, found = _follow(path)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigFileError("is no regular file", path=path, fix="put a file there")
    _check(real, found, path)
    return real


def safe_program(path: str) -> str:
    """A program's real path, under the conditions of :func:`safe_directory`.

    Raises:
        ConfigFileError: as :func:`safe_file`; or this user may not execute it.
    """
    real = safe_file(path)
    if not os.access(real, os.X_OK):
        raise ConfigFileError("is not executable", path=path, fix="chmod +x it")
    return real


def read_safely(path: str) -> bytes:
    """What a file holds, under the conditions of :func:`safe_directory`.

    Raises:
        ConfigFileError: as :func:`safe_file`; or it can't be read, or is too long for a manifest.
    """
    real = safe_file(path)
    try:
        # Nobody else can have changed the way since it was looked at; what we find at its end is checked once more.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:
            _check(real, os.fstat(descriptor), path)
            data = stream.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if len(data) > _MOST_BYTES:
        raise ConfigFileError(f"is longer than {_MOST_BYTES >> 20} MiB", path=path, fix="a manifest is short")
    return data


def _follow(path: str) -> tuple[str, os.stat_result]:
    """Goes the way of ``path`` step by step, as the kernel does, and looks at all that could be changed on it."""
    current = os.sep
    links = 0
    try:
        _check_step(current, os.lstat(current), path)
        steps = deque(os.path.join(os.getcwd(), path).split(os.sep))
        while steps:
            step = steps.popleft()
            if step in {"", os.curdir}:
                continue
            if step == os.pardir:
                current = os.path.dirname(current)
                continue
            here = os.path.join(current, step)
            found = os.lstat(here)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                target = _target(here, found, path, links)
                steps.extendleft(reversed(target.split(os.sep)))
                current = os.sep if target.startswith(os.sep) else current
                continue
            if steps:
                _check_step(here, found, path)
            current = here
        return current, os.lstat(current)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _target(here: str, found: os.stat_result, path: str, links: int) -> str:
    """Where a symbolic link leads: only root and we may have made it, wherever it stands."""
    if links > _MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not _ours(found) and not _read_only(os.path.dirname(here)):
        raise _refusal(path, here, f"is a link of user {found.st_uid}", "make it as root or as this user")
    return os.readlink(here)


def _check_step(here: str, found: os.stat_result, path: str) -> None:
    """A directory on the way: there the sticky bit keeps others from replacing what is ours."""
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and _ours(found):
        return
    _check(here, found, path)


def _check(here: str, found: os.stat_result, path: str) -> None:
    by_others = stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if (_ours(found) and not by_others) or _read_only(here):
        return
    if not _ours(found):
        raise _refusal(path, here, f"belongs to user {found.st_uid}", "give it to root or to this user")
    who = "everybody" if by_others & stat.S_IWOTH else f"group {found.st_gid}"
    raise _refusal(path, here, f"can be written by {who}", "chmod go-w it")


def _ours(found: os.stat_result) -> bool:
    return found.st_uid in {0, os.geteuid()}


def _read_only(here: str) -> bool:
    """Such as a volume of Kubernetes, whose directories everybody could write if it were not for that."""
    return bool(os.statvfs(here).f_flag & os.ST_RDONLY)


def _refusal(path: str, here: str, what: str, fix: str) -> ConfigFileError:
    where = "" if os.path.abspath(path) == here else f"{here}, which leads there, "
    return ConfigFileError(f"not read: {where}{what}", path=path, fix=fix, details={_UNSAFE: here})


def is_unsafe(error: Exception) -> bool:
    """Whether it says that others could have put something there, and not that something is missing or broken."""
    return isinstance(error, ConfigFileError) and _UNSAFE in error.details


def _unreadable(path: str, exc: OSError) -> ConfigFileError:
    state = "is not there" if isinstance(exc, FileNotFoundError) else f"can't be read: {exc.strerror}"
    return ConfigFileError(state, path=path, fix="put it there, or take its name out")
