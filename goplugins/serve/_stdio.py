"""Serves an exec plugin: requests from stdin, replies to stdout, until one of them ends."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from typing import TYPE_CHECKING

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.polling import Poll, create_poll
from goplugins.serve._line_server import DISCARD_TIMEOUT, MAX_DISCARDED, LineService

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve._served import Served

_logger = logging.getLogger("goplugins.serve")

_CHUNK = 65536
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def stdio_server(plugin: Served, *, auth: AuthConfig | None, max_request_bytes: int) -> StdioServer:
    """A server that owns stdin and stdout from now on.

    Raises:
        ConfigError: ``auth`` lacks its credentials.
        InvalidArgumentError: another argument can't be used.
    """
    return StdioServer(LineService(plugin, auth=auth, max_request_bytes=max_request_bytes))


class StdioServer:
    """Executes requests one after the other: :meth:`run` on a thread of its own, :meth:`stop` from any other.

    Both pipes are moved to other descriptors: what the plugin prints goes to stderr, its stdin is empty, and programs
    that it starts inherit neither pipe.

    Args:
        service: executes requests.
        clock: source of time.
    """

    def __init__(self, service: LineService, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._service = service
        self._clock = clock
        self._stop_at: float | None = None
        self._ended = threading.Event()
        self._changed = threading.Event()
        self._failure: BaseException | None = None
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        with contextlib.suppress(AttributeError, ValueError, OSError):  # no stdout, or a closed one
            sys.stdout.flush()
        self._reader, self._writer = os.dup(_STDIN), os.dup(_STDOUT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, _STDIN)
        os.close(nothing)
        os.dup2(_STDERR, _STDOUT)

    def stop(self, grace: float) -> None:
        """Ends :meth:`run` in ``grace`` seconds at the latest; a later call can only shorten that."""
        at = self._clock.monotonic() + grace
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        with contextlib.suppress(OSError):
            os.write(self._wake_writer, b"w")
        self._changed.set()

    def run(self) -> None:
        """Serves until stdin ends or :meth:`stop`; a request that has arrived by then is still executed."""
        threading.Thread(target=self._serve, name="goplugins-stdio", daemon=True).start()
        while True:
            self._changed.clear()  # before the checks below: a change after them is not lost
            if self._ended.is_set():
                break
            left = None if self._stop_at is None else self._stop_at - self._clock.monotonic()
            if left is not None and left <= 0:
                _logger.warning("stopped with a call in flight, which did not end within the grace period")
                return  # the descriptors stay moved: the call that continues may still print
            self._clock.wait(self._changed, left)
        self._close()
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        try:
            self._answer_all()
        except BrokenPipeError:
            pass  # the host has exited
        except BaseException as exc:  # noqa: BLE001 - raised again by run()
            self._failure = exc
        finally:
            self._ended.set()
            self._changed.set()

    def _answer_all(self) -> None:
        reader = self._service.reader()
        poll = create_poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while not reader.ended:
            ready = dict(poll.poll())
            if self._reader not in ready:
                return  # stopped, and no request has arrived
            chunk = os.read(self._reader, _CHUNK)
            if not chunk:
                return
            for line in reader.feed(chunk):
                self._write(self._service.answer(line, self._clock.monotonic(), "stdin"))
        self._discard_rest(poll)

    def _discard_rest(self, poll: Poll) -> None:
        """Reads the rest of a line that was refused, so that the host can read the refusal; :meth:`stop` ends it."""
        end, discarded = self._clock.monotonic() + DISCARD_TIMEOUT, 0
        while discarded < MAX_DISCARDED and (left := end - self._clock.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000.0))
            chunk = os.read(self._reader, _CHUNK) if self._reader in ready and self._wake_reader not in ready else b""
            if not chunk:
                return
            discarded += len(chunk)

    def _write(self, reply: bytes) -> None:
        rest = memoryview(reply)
        while rest:
            rest = rest[os.write(self._writer, rest) :]

    def _close(self) -> None:
        """Moves stdin and stdout back."""
        with contextlib.suppress(AttributeError, ValueError, OSError):
            sys.stdout.flush()
        os.dup2(self._reader, _STDIN)
        os.dup2(self._writer, _STDOUT)
        for descriptor in (self._reader, self._writer, self._wake_reader, self._wake_writer):
            os.close(descriptor)
