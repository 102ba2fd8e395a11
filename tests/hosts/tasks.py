"""A plain Celery application."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from goplugins import Manager
from tests.hosts import calling
from tests.hosts.plugins import Answer, Ask

app = Celery(__name__, broker=os.environ["HOSTS_REDIS"], backend=os.environ["HOSTS_REDIS"])
app.conf.update(calling.CELERY)
manager: Manager[Any, Any] = Manager()
manager.load_from_config(calling.CONFIG)
calling.prepare(manager)


@app.task
def call(plugin: str, number: str, seconds: float, refuse: bool, timeout: float) -> dict[str, Any]:
    return calling.call(plugin, number, seconds=seconds, refuse=refuse, timeout=timeout)


@app.task
def sockets() -> dict[str, Any]:
    return calling.sockets()


@app.task
def fail(plugin: str) -> None:
    manager.bind(plugin, Ask, Answer)(Ask(1, refuse=True))
