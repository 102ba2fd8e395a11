"""Checks that no other user can have written a file: its owner and permissions, and those of its whole path."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from goplugins.errors import ConfigFileError

_UNSAFE = "unsafe"
_MOST_LINKS = 40
_MOST_BYTES = 1 << 20
"""Maximum size of a manifest."""


def safe_directory(path: str) -> str:
    """A directory's real path, after a check that only root and this user can write to it.

    The check covers every directory and symbolic link on the path: they must belong to root or to the effective user,
    and neither group nor others may write. A parent directory may be sticky instead (/tmp): other users can add files
    to it, but can't replace ours. File systems that are mounted read-only pass.

    Raises:
        ConfigFileError: another user can write there, it is not a directory, or it does not exist.
    """
    real, found = _follow(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigFileError("is not a directory", path=path, fix="name a directory")
    _check(real, found, path)
    return real


def safe_file(path: str) -> str:
    """A regular file's real path, under the conditions of :func:`safe_directory`.

    Raises:
        ConfigFileError: another user can write to it or its path, it is not a regular file, or it does not exist.
    """
    real, found = _follow(path)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigFileError("is not a regular file", path=path, fix="replace it by a file")
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
    """The content of a file, under the conditions of :func:`safe_directory`.

    Raises:
        ConfigFileError: as :func:`safe_file`; or it can't be read, or is too large for a manifest.
    """
    real = safe_file(path)
    try:
        # No other user can have changed the path since the check above; the file itself is checked once more.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:
            _check(real, os.fstat(descriptor), path)
            data = stream.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if len(data) > _MOST_BYTES:
        raise ConfigFileError(f"is larger than {_MOST_BYTES >> 20} MiB", path=path, fix="shorten it")
    return data


def _follow(path: str) -> tuple[str, os.stat_result]:
    """Resolves ``path`` step by step, as the kernel does, and checks every directory and link on it."""
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
    except (OSError, ValueError) as exc:  # ValueError: no name of a file can have such characters
        raise _unreadable(path, exc) from exc


def _target(here: str, found: os.stat_result, path: str, links: int) -> str:
    """The target of a symbolic link, which must belong to root or this user in any directory."""
    if links > _MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not _ours(found) and not _read_only(os.path.dirname(here)):
        raise _refusal(path, here, f"is a symbolic link of user {found.st_uid}", "create it as root or as this user")
    return os.readlink(here)


def _check_step(here: str, found: os.stat_result, path: str) -> None:
    """Checks a parent directory: the sticky bit keeps other users from replacing our files in it."""
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX and _ours(found):
        return
    _check(here, found, path)


def _check(here: str, found: os.stat_result, path: str) -> None:
    by_others = stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if (_ours(found) and not by_others) or _read_only(here):
        return
    if not _ours(found):
        raise _refusal(path, here, f"belongs to user {found.st_uid}", "chown it to root or to this user")
    who = "all users" if by_others & stat.S_IWOTH else f"group {found.st_gid}"
    raise _refusal(path, here, f"is writable for {who}", "chmod go-w it")


def _ours(found: os.stat_result) -> bool:
    return found.st_uid in {0, os.geteuid()}


def _read_only(here: str) -> bool:
    """Such as a volume of Kubernetes, whose directories have write permission for all users."""
    return bool(os.statvfs(here).f_flag & os.ST_RDONLY)


def _refusal(path: str, here: str, what: str, fix: str) -> ConfigFileError:
    where = "" if os.path.abspath(path) == here else f"{here}, which is on its path, "
    return ConfigFileError(f"not read: {where}{what}", path=path, fix=fix, details={_UNSAFE: here})


def is_unsafe(error: Exception) -> bool:
    """Whether the error is that another user could have written the file, and not that it is missing or broken."""
    return isinstance(error, ConfigFileError) and _UNSAFE in error.details


def _unreadable(path: str, exc: OSError | ValueError) -> ConfigFileError:
    reason = exc.strerror if isinstance(exc, OSError) else str(exc)
    state = "does not exist" if isinstance(exc, FileNotFoundError) else f"can't be read: {reason}"
    return ConfigFileError(state, path=path, fix="create it, or remove its name from the configuration")
