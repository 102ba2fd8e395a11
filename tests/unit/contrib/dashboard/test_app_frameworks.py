"""The dashboard in Flask and Django applications: URL prefix and login."""

from __future__ import annotations

import functools
import json

import flask
import pytest
from django.http import HttpResponseForbidden
from django.test import Client, override_settings
from django.urls import re_path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from goplugins import CircuitBreakerState, Manager
from goplugins.contrib import dashboard
from goplugins.contrib.dashboard.django import view
from tests.unit.contrib import project
from tests.unit.contrib.dashboards import FakePlugin

project.start()


@pytest.fixture
def manager():
    with Manager() as manager:
        manager.register(FakePlugin())
        yield manager


# --- Flask -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def flask_client(manager):
    app = flask.Flask(__name__)
    app.secret_key = "of a test"

    @app.post("/login/<name>")
    def login(name):
        flask.session["user"] = name
        return ""

    def user(environ):
        with app.request_context(environ):
            return flask.session.get("user", "")

    page = dashboard.wsgi(manager, may_view=user, authorize=lambda environ: user(environ) == "ada", actor=user)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/ops/plugins": page})
    return app.test_client()


def test_flask_login_protects_the_dashboard(flask_client):
    assert flask_client.get("/ops/plugins/").status_code == 403
    flask_client.post("/login/eve")
    assert flask_client.get("/ops/plugins/state").json["plugins"][0]["name"] == "auth"
    assert flask_client.get("/ops/plugins").headers["Location"] == "./plugins/"
    page = flask_client.get("/ops/plugins/")
    assert "static/app.js" in page.text
    assert 'content=""' in page.text


def test_flask_operator_is_logged_by_name(flask_client, manager, caplog):
    flask_client.post("/login/ada")
    token = flask_client.get("/ops/plugins/").text.partition('name="token" content="')[2].partition('"')[0]
    keys = {"X-Goplugins-Token": token, "Origin": "http://localhost"}
    answer = flask_client.post("/ops/plugins/actions/disable", json={"plugin": "auth"}, headers=keys)
    assert answer.status_code == 200
    assert manager.explain("auth").breaker is CircuitBreakerState.OPEN
    assert "ada: auth takes no calls" in caplog.text


# --- Django ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def django_client(manager):
    page = view(dashboard.wsgi(manager, authorize=lambda environ: environ["django.request"].headers["X-User"] == "ada"))

    @functools.wraps(page)
    def guarded(request, path):
        return page(request, path) if "X-User" in request.headers else HttpResponseForbidden()

    class Urls:
        urlpatterns = (re_path(r"^ops/plugins(?P<path>.*)$", guarded),)

    middleware = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
    with override_settings(ROOT_URLCONF=Urls, ALLOWED_HOSTS=["*"], MIDDLEWARE=middleware):
        yield Client(enforce_csrf_checks=True, headers={"Host": "localhost"})


def test_django_view_login_protects_the_dashboard(django_client):
    assert django_client.get("/ops/plugins/").status_code == 403
    assert django_client.get("/ops/plugins/state", headers={"X-User": "eve"}).json()["plugins"][0]["name"] == "auth"
    page = django_client.get("/ops/plugins/", headers={"X-User": "eve"})
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


def test_django_redirects_to_the_page(django_client):
    answer = django_client.get("/ops/plugins", headers={"X-User": "eve"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "./plugins/")


def test_django_operator_needs_the_dashboards_token_and_no_csrf_token(django_client, manager):
    page = django_client.get("/ops/plugins/", headers={"X-User": "ada"})
    token = page.content.decode().partition('name="token" content="')[2].partition('"')[0]
    keys = {"X-Goplugins-Token": token, "Origin": "http://localhost", "X-User": "ada"}
    keys["Cookie"] = page.headers["Set-Cookie"].partition(";")[0]
    order = {"data": json.dumps({"plugin": "auth"}), "content_type": "application/json"}
    refused = django_client.post("/ops/plugins/actions/disable", headers={"X-User": "ada"}, **order)
    assert refused.status_code == 403
    assert manager.explain("auth").breaker is CircuitBreakerState.CLOSED
    assert django_client.post("/ops/plugins/actions/disable", headers=keys, **order).status_code == 200
    assert manager.explain("auth").breaker is CircuitBreakerState.OPEN
