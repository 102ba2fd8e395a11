"""A Flask application, configured as in the documentation."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from goplugins.contrib.flask import GoPlugins, current_plugins, health_blueprint
from tests.hosts import calling

app = Flask(__name__)
app.config["GOPLUGINS"] = {"CONFIG": calling.CONFIG, "TIMEOUT": 15}
GoPlugins(app)
app.register_blueprint(health_blueprint())
with app.app_context():
    calling.prepare(current_plugins)


@app.get("/<path:path>")
def answer(path: str) -> Any:
    return calling.answer(path, request.query_string.decode())
