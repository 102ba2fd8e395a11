"""A Django project in one file, configured as in the documentation."""

from __future__ import annotations

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.hosts import calling

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["goplugins.contrib.django"],
    MIDDLEWARE=["goplugins.contrib.django.middleware.PluginCallsMiddleware"],
    GOPLUGINS={"CONFIG": calling.CONFIG, "TIMEOUT": 15},
    ROOT_URLCONF=__name__,
)
django.setup()

from goplugins.contrib.django import plugins  # noqa: E402 - needs the settings
from goplugins.contrib.django.views import health  # noqa: E402


def answer(request: HttpRequest, words: str) -> JsonResponse:
    return JsonResponse(calling.answer(words, request.META["QUERY_STRING"]), safe=False)


urlpatterns = [path("health/plugins", health), path("<path:words>", answer)]
calling.prepare(plugins)
application = get_wsgi_application()
