"""The tasks of the worker under test; its broker and its results are folders."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from goplugins import Manager, serve
from goplugins.contrib.celery import PluginTask, install

folder = os.environ["WORKER_FOLDER"]

app = Celery("tasks", broker="filesystem://", backend=f"file://{folder}/results")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
    },
    worker_hijack_root_logger=False,
)


@serve.plugin(name="sleepy")
def sleepy(request: float) -> str:
    time.sleep(request)  # in this process: it is told its deadline, and can't be stopped
    return "awake"


def setup(manager: Manager[Any, Any]) -> None:
    manager.register(sleepy)


plugins = install(app, config=f"{folder}/plugins.json", setup=setup)


class QuickTask(PluginTask):
    abstract = True
    retry_backoff = 0.1


@app.task(soft_time_limit=2, time_limit=10)
def hang() -> Any:
    return plugins.execute("hanging", "hang")


@app.task(soft_time_limit=1, time_limit=10)
def oversleep() -> str:
    try:
        plugins.execute("sleepy", 8.0)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept"


@app.task(base=QuickTask, bind=True, max_retries=3)
def busy(self: Any) -> list[Any]:
    return [plugins.execute("hanging", "busy", idempotent=False), self.request.retries]
