"""How a process's stderr is split into lines, limited and logged."""

from __future__ import annotations

import pytest

from goplugins.testing import ManualClock
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
