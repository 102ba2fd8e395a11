"""Checks of the ``observability`` section."""

from __future__ import annotations

import pytest

from goplugins import (
    Manager,
)
from goplugins.errors import ConfigError
from tests.unit.observability.fakes import ECHO


def test_metrics_without_their_package_are_refused(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prometheus_client" else found(name))
    with pytest.raises(ConfigError, match=r"metrics_port.*goplugins\[prometheus\]"):
        Manager(str, str).load_from_config({"plugins": [ECHO], "metrics_port": 9090})
