"""A process without a known server, and plugins to examine."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import PluginConfig
from goplugins.config.groups import spread
from goplugins.config.manager import load
from goplugins.doctor import this_process


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_process, "_logged", {})
    monkeypatch.setattr(this_process, "_bounded", False)
    monkeypatch.setattr(this_process, "_declared", [])
    monkeypatch.setattr(this_process, "_limits", {})
    for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "GRPC_ENABLE_FORK_SUPPORT"):
        monkeypatch.delenv(name, raising=False)


def plugins(*given: dict[str, Any], **sections: Any) -> list[PluginConfig]:
    http = {"transport": "http", "endpoint": "http://127.0.0.1:9"}
    values = {"plugins": [{"name": f"p{number}", **http, **each} for number, each in enumerate(given or [{}])]}
    return list(spread(load({**values, **sections}, check_files=True).resolved).plugins)
