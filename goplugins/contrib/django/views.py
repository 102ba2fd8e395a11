"""A readiness view: whether the plugins that the project needs are available."""

from __future__ import annotations

import logging

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from goplugins.contrib.django import hosted, project_settings
from goplugins.contrib.health import readiness

__all__ = ["health"]

logger = logging.getLogger("goplugins.django")


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """200, or 503 with the names and states of plugins that are down. No plugin is called.

    ``GOPLUGINS["HEALTH_REQUIRED"]`` names the plugins that count; without it all do.
    """
    code, answer = readiness(hosted.get, lambda: project_settings().required)
    return JsonResponse(answer, status=code)
