"""The tasks. Broker and result backend are folders; set BROKER_URL and RESULT_URL to use those of a deployment."""

import os
from pathlib import Path

from celery import Celery

from goplugins.contrib.celery import PluginTask, install

HERE = Path(__file__).parent
FOLDER = os.environ.get("WORKER_FOLDER", "/tmp/goplugins-celery-example")

app = Celery(
    "tasks",
    broker=os.environ.get("BROKER_URL", "filesystem://"),
    backend=os.environ.get("RESULT_URL", f"file://{FOLDER}/results"),
)
app.conf.broker_connection_retry_on_startup = True
if "BROKER_URL" not in os.environ:
    for name in ("queue", "control", "results"):
        Path(FOLDER, name).mkdir(parents=True, exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": f"{FOLDER}/queue",
        "data_folder_out": f"{FOLDER}/queue",
        "control_folder": f"{FOLDER}/control",
    }

plugins = install(app, config=HERE / "plugins.yaml")


@app.task(base=PluginTask, soft_time_limit=2, max_retries=0)
def quote(symbol: str) -> int:
    cents: int = plugins.execute("quotes", symbol)
    return cents
