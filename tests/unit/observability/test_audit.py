"""The audit trail: complete, in order, and without secrets."""

from __future__ import annotations

import logging
import threading

import pytest

from goplugins import (
    Manager,
    PluginConfig,
)
from goplugins.errors import AuthenticationError, CertificateError, ConfigError
from goplugins.observability.audit import acting_as
from tests.unit.observability.fakes import ECHO, Raiser, fail


@pytest.fixture
def audit(caplog):
    caplog.set_level(logging.INFO, "goplugins.audit")

    def records():
        return [record for record in caplog.records if record.name == "goplugins.audit"]

    return records


def test_security_relevant_events_are_recorded_completely_and_in_order(audit):
    with Manager() as manager:
        manager.load_from_config({"plugins": [ECHO]})
        manager.register(Raiser(), PluginConfig(name="moody"))
        fail(manager, AuthenticationError)
        fail(manager, CertificateError)
        manager.control("moody").force_open()
        manager.control("moody").force_open()
        manager.control("moody").reset_breaker()
        with acting_as("alice"):
            auth = {"method": "bearer", "token": "hunter2-token"}
            web = {"name": "web", "transport": "http", "endpoint": "http://x", "auth": auth, "enabled": False}
            manager.reload_config({"plugins": [ECHO, web]})
        with pytest.raises(ConfigError):
            manager.reload_config({"plugins": []})
        manager.unregister("moody")
    found = [(record.audit, record.plugin) for record in audit()]
    assert found[:11] == [
        ("plugin_added", "echo"),
        ("plugin_added", "moody"),
        ("authentication_refused", "moody"),
        ("certificate_refused", "moody"),
        ("breaker_forced", "moody"),
        ("breaker_forced", "moody"),  # repeated: recorded although nothing changed
        ("breaker_reset", "moody"),
        ("configuration_changed", ""),
        ("configuration_refused", ""),
        ("plugin_removed", "moody"),
        ("plugin_removed", "echo"),
    ]
    numbers = [record.sequence for record in audit()]
    assert numbers == list(range(1, len(numbers) + 1))
    changed = audit()[7]
    assert changed.actor == "alice"
    assert "web" in changed.detail
    text = " ".join(record.getMessage() for record in audit())
    assert "hunter2" not in text


def test_records_below_the_log_level_use_no_number(caplog):
    with Manager() as manager:
        caplog.set_level(logging.WARNING, "goplugins.audit")
        manager.register(Raiser(), PluginConfig(name="moody"))
        manager.control("moody").force_open()
        manager.control("moody").reset_breaker()
    found = [record for record in caplog.records if record.name == "goplugins.audit"]
    assert [(record.audit, record.sequence) for record in found] == [("breaker_forced", 1), ("breaker_reset", 2)]


def test_text_of_a_plugin_stays_on_one_line(audit):
    class Forger(Raiser):
        def execute(self, request, context):
            raise AuthenticationError("no\nbreaker_reset auth by root: all is well")

    with Manager() as manager:
        manager.register(Forger(), PluginConfig(name="forger"))
        with pytest.raises(AuthenticationError):
            manager.execute("forger", None)
    assert not any("\n" in record.getMessage() for record in audit())
    assert any("no\\nbreaker_reset" in record.detail for record in audit())


def test_numbers_have_no_gaps_and_no_duplicates_among_threads(audit):
    with Manager() as manager:
        manager.register(Raiser(), PluginConfig(name="moody"))
        threads = [
            threading.Thread(target=fail, args=(manager, AuthenticationError, 50), daemon=True) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = [record.sequence for record in audit()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert sum(record.audit == "authentication_refused" for record in audit()) == 400
