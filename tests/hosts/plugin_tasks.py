"""A Celery application, configured as in the documentation."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from goplugins.contrib.celery import PluginTask, install
from tests.hosts import calling
from tests.hosts.plugins import Answer, Ask

app = Celery(__name__, broker=os.environ["HOSTS_REDIS"], backend=os.environ["HOSTS_REDIS"])
app.conf.update(calling.CELERY)
plugins = install(app, config=calling.CONFIG)
calling.prepare(plugins)


@app.task(base=PluginTask, soft_time_limit=30)
def call(plugin: str, number: str, seconds: float, refuse: bool, timeout: float) -> dict[str, Any]:
    return calling.call(plugin, number, seconds=seconds, refuse=refuse, timeout=timeout)


@app.task
def sockets() -> dict[str, Any]:
    return calling.sockets()


@app.task
def fail(plugin: str) -> None:
    plugins.bind(plugin, Ask, Answer)(Ask(1, refuse=True))


@app.task(base=PluginTask, soft_time_limit=1, max_retries=0)
def overtime(plugin: str) -> None:
    """Its call has a longer timeout than its own time limit."""
    plugins.bind(plugin, Ask, Answer)(Ask(1, seconds=3), timeout=10)
