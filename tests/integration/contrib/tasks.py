"""A Celery application with folders as broker and result backend; used by the worker and by the tests."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from goplugins import Manager, serve
from goplugins.contrib.celery import PluginTask, install


@serve.plugin(name="sleepy")
def sleepy(request: float) -> str:
    time.sleep(request)  # in-process: no deadline ends it
    return "awake"


def setup(manager: Manager[Any, Any]) -> None:
    manager.register(sleepy)


class QuickTask(PluginTask):
    abstract = True
    retry_backoff = 0.1


def make(folder: str) -> SimpleNamespace:
    """An application with its queue and results in ``folder``, and its tasks."""
    app = Celery("tasks", broker="filesystem://", backend=f"file://{folder}/results", set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "data_folder_in": f"{folder}/queue",
            "data_folder_out": f"{folder}/queue",
            "control_folder": f"{folder}/control",
        },
        worker_hijack_root_logger=False,
    )
    plugins = install(app, config=f"{folder}/plugins.json", setup=setup)

    @app.task(soft_time_limit=2, time_limit=10)
    def hang() -> Any:
        return plugins.execute("hanging", "hang")

    @app.task(soft_time_limit=1, time_limit=10)
    def sleep() -> str:
        try:
            plugins.execute("sleepy", 8.0)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "slept"

    @app.task(base=QuickTask, bind=True, max_retries=3)
    def busy(self: Any) -> list[Any]:
        return [plugins.execute("hanging", "busy", idempotent=False), self.request.retries]

    return SimpleNamespace(app=app, hang=hang, sleep=sleep, busy=busy)


if "WORKER_FOLDER" in os.environ:  # the worker: celery -A tests.integration.contrib.tasks
    app = make(os.environ["WORKER_FOLDER"]).app
