"""The Celery application under test."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from tests.hosts import calling
from tests.hosts.plugins import Ask

app = Celery("tests.hosts.tasks", broker=os.environ["HOSTS_REDIS"], backend=os.environ["HOSTS_REDIS"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    # A worker that leaves gives back what it had taken: without these, Celery loses tasks by design.
    task_acks_late=True,
    worker_prefetch_multiplier=4,
)
calling.prepare()


@app.task
def call(plugin: str, number: str, seconds: float, refuse: bool, timeout: float) -> dict[str, Any]:
    return calling.call(plugin, number, seconds=seconds, refuse=refuse, timeout=timeout)


@app.task
def sockets() -> dict[str, Any]:
    return {"pid": os.getpid(), "sockets": calling.plugin_sockets()}


@app.task
def fail(plugin: str) -> None:
    calling.manager.execute(plugin, Ask(1, refuse=True))
