"""Files that are followed: configuration, certificates, tokens. Cheap to look at while they stay as they are."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping

from goplugins.config.credentials import AuthConfig, files_of
from goplugins.errors import ConfigError, PluginError
from goplugins.runtime.clock import Clock
from goplugins.transports.auth import joined_secrets, scrub, scrub_error, secrets_of, with_token

__all__ = ["PluginCredentials", "WatchedFiles"]

logger = logging.getLogger("goplugins.transports")

_CREDENTIALS_SETTLE = 0.3
"""Seconds."""

_RECENT = 2.0
"""Seconds. What was written so shortly before it was read may have been written again with the same time stamp."""


class _File:
    """One of them. Opened anew each time, so it is followed through symbolic links and renames over it."""

    __slots__ = ("_digest", "_mark", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._mark: tuple[int, ...] | None = None
        self._digest = ""

    def digest(self, now: float) -> str:
        """Stands for its content; empty if there is no such file, or none that can be read."""
        try:
            found = os.stat(self.path)
            mark = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if mark == self._mark:
                return self._digest
            if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
                return ""
            with open(self.path, "rb") as stream:
                self._digest = hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            self._mark = None
            return ""
        self._mark = mark if now - max(found.st_mtime, found.st_ctime) > _RECENT else None
        return self._digest


class WatchedFiles:
    """Tells when the content of some files is another one than before, and stays so.

    Writers take their time: a file may be empty, half written or away for a moment, and a key comes after its
    certificate. Used by one thread at a time.

    Args:
        paths: the files.
        clock: measures.
        settle: seconds that a content must stay the same before it counts.
        known: False if what they hold now counts as news, too.
    """

    def __init__(self, paths: Iterable[str], clock: Clock, *, settle: float, known: bool = True) -> None:
        self._files = [_File(path) for path in paths]
        self._clock = clock
        self._settle = settle
        self._known: tuple[str, ...] = self._look() if known else ()
        self._seen = self._known
        self._since = clock.monotonic()

    def _look(self) -> tuple[str, ...]:
        now = self._clock.time()
        return tuple(file.digest(now) for file in self._files)

    def changed(self) -> bool:
        """Whether there is a new content that has settled; stays true until :meth:`accept`."""
        found = self._look()
        if found != self._seen:
            self._seen = found
            self._since = self._clock.monotonic()
        return self.pending and self._clock.monotonic() - self._since >= self._settle

    @property
    def pending(self) -> bool:
        """Whether the last look found a new content, settled or not."""
        return self._seen != self._known

    @property
    def complete(self) -> bool:
        """Whether the last look found every file."""
        return all(self._seen)

    def accept(self) -> None:
        """The content that the last look found is known from now on."""
        self._known = self._seen


class PluginCredentials:
    """Credentials of one plugin: loaded from its ``auth`` section, renewed when their files change, kept out of texts.

    Args:
        auth: the section; None for no credentials.
        clock: measures.
        name: the plugin's, for the log.

    Attributes:
        auth: the section as first loaded, with the token of its file.
        watched: whether there are files to watch, for :meth:`renew`.

    Raises:
        ConfigError: the token file can't be used.
    """

    def __init__(self, auth: AuthConfig | None, clock: Clock, name: str) -> None:
        self._section = section = auth or AuthConfig()
        self._name = name
        self._failure = ""
        self._secrets: tuple[str, ...] = ()
        paths = files_of(auth)
        self.watched = bool(paths)
        # Before the files are read: a change in between must not be missed.
        self._files = WatchedFiles(paths, clock, settle=_CREDENTIALS_SETTLE)
        self.auth = with_token(section)

    def renew(self, apply: Callable[[AuthConfig], None]) -> None:
        """Applies new credentials if the files have changed and can be used; otherwise the old ones stay.

        Args:
            apply: applies a section whose token has been read. If it raises a ConfigError, it has changed nothing.
        """
        if not self._files.changed():
            return
        try:
            apply(with_token(self._section))
        except ConfigError as error:
            # A key file is written after its certificate: until both match, the old ones are used.
            if str(error) != self._failure:
                self._failure = str(error)
                logger.warning("plugin %r: new credentials can't be used, the old ones stay: %s", self._name, error)
            return
        self._failure = ""
        self._files.accept()
        logger.info("plugin %r: uses the new credentials of its files", self._name)

    def protect(self, auth: AuthConfig, headers: Mapping[str, str]) -> None:
        """Removes these credentials from texts from now on, and the previous ones, which calls in flight still use."""
        secrets = secrets_of(headers, auth.password, auth.token, auth.api_key)
        self._secrets = joined_secrets(secrets, before=self._secrets)

    def scrub(self, text: str) -> str:
        """A remote text without the credentials: debugging pages and plugins may echo a request."""
        return scrub(text, self._secrets)

    def scrub_error(self, error: PluginError) -> None:
        """Removes the credentials from the message and the details of an error."""
        scrub_error(error, self._secrets)
