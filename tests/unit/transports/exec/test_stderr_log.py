"""How a process's stderr is split into lines, limited and logged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from goplugins.config import AuthConfig
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.testing import ManualClock
from goplugins.transports.credential_rotation import PluginCredentials
from goplugins.transports.exec.stderr_log import StderrLog


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def test_lines_are_logged_whatever_chunks_they_come_in(caplog):
    log = StderrLog("p", ManualClock())
    for piece in (b"on", b"e\ntw", b"o\n\nthree"):
        log.feed(piece)
    assert caplog.messages == ["one", "two"]
    log.close()
    assert caplog.messages == ["one", "two", "three"]
    assert log.last_lines == "one | two | three"


def test_lines_above_the_rate_limit_are_counted_and_the_last_ones_kept(caplog):
    clock = ManualClock()
    log = StderrLog("p", clock)
    log.feed(b"".join(b"line %d\n" % number for number in range(1000)))
    log.feed(b"".join(b"line %d\n" % number for number in range(1000, 2000)))
    assert len(caplog.messages) == 200
    assert log.last_lines.endswith("line 1998 | line 1999")
    clock.advance(1)
    log.feed(b"later\n")
    assert caplog.messages[200:] == ["1800 line(s) of stderr not logged: more than 100 per second", "later"]


def test_a_line_without_end_is_cut(caplog):
    log = StderrLog("p", ManualClock())
    for _ in range(100):
        log.feed(b"x" * 65536)
    log.feed(b"\nnext\n")
    log.close()
    assert [len(message) for message in caplog.messages] == [4096 + len(" (cut)"), 4]


def test_a_line_can_not_forge_another(caplog):
    StderrLog("p", ManualClock()).feed(b"a\rFAKE \xff \xc2\x85 \xe2\x80\xa8 z\n")
    assert caplog.messages == ["a\\rFAKE \\xff \\x85 \\u2028 z"]


def test_credentials_are_removed_from_log_and_last_lines(caplog):
    log = StderrLog("p", ManualClock(), lambda text: text.replace("s3cr3t", "***"))
    log.feed(b'got {"Authorization":"Bearer s3cr3t"}\n')
    assert caplog.messages == ['got {"Authorization":"Bearer ***"}']
    assert "s3cr3t" not in log.last_lines


SECRET = "QWERTZUIOPASDFGH"


def masking() -> Callable[[str], str]:
    credentials = PluginCredentials(None, SYSTEM_CLOCK, "p")
    credentials.protect(AuthConfig(), {"Authorization": f"Bearer {SECRET}"})
    return credentials.scrub


@pytest.mark.parametrize("limited", [False, True], ids=["logged", "above the rate limit"])
@pytest.mark.parametrize("ends", [True, False], ids=["a whole line", "without end"])
def test_a_credential_that_is_cut_in_two_is_removed(caplog, limited, ends):
    for shown in range(len(SECRET) + 2):
        line = b"x" * (4095 - shown) + SECRET.encode() + b" y" * 100 + b"\n" * ends
        for split in (len(line), 4090, 4096, 4097, 4100):
            log = StderrLog("p", ManualClock(), masking())
            if limited:
                log.feed(b"line\n" * 1000)
            log.feed(line[:split])
            log.feed(line[split:])
            log.feed(b"y" * 5000 + b"\nend\n")
            assert not set(SECRET) & set(log.last_lines), (shown, split)
            assert log.last_lines.endswith("end")
    assert not set(SECRET) & set("".join(caplog.messages))


@pytest.mark.parametrize("lines", range(8))
def test_lines_above_the_rate_limit_are_whole(lines):
    log = StderrLog("p", ManualClock())
    log.feed(b"line\n" * 1000)
    log.feed(b"a lo")
    log.feed(b"ng line\n" + b"".join(b"%d\n" % number for number in range(lines)) + b"more")
    log.feed(b" follows\n")
    expected = [*["line"] * 5, "a long line", *map(str, range(lines)), "more follows"][-5:]
    assert log.last_lines == " | ".join(expected)
