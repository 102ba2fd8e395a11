"""The application: ``flask --app app run``, or ``gunicorn app:app``."""

from pathlib import Path

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from goplugins import PluginError, PluginExecutionError
from goplugins.contrib.flask import GoPlugins, current_plugins, health_blueprint

app = Flask(__name__)
app.config["GOPLUGINS"] = {"CONFIG": Path(__file__).with_name("plugins.yaml"), "TIMEOUT": "3s"}
GoPlugins(app)
app.register_blueprint(health_blueprint())

quote = current_plugins.bind("quotes", str, int)


@app.get("/quote/<symbol>")
def show(symbol: str) -> ResponseReturnValue:
    return jsonify(symbol=symbol, cents=quote(symbol))


@app.errorhandler(PluginExecutionError)
def refused(error: PluginExecutionError) -> ResponseReturnValue:
    return jsonify(error=error.message), 422


@app.errorhandler(PluginError)
def failed(error: PluginError) -> ResponseReturnValue:
    app.logger.warning("%s", error)
    return jsonify(error="try again later" if error.retryable else "out of order"), 503
