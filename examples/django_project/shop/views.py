"""The views."""

from django.http import HttpRequest, JsonResponse

from goplugins import PluginError, PluginExecutionError
from goplugins.contrib.django import plugins

quote = plugins.bind("quotes", str, int)


def show(request: HttpRequest, symbol: str) -> JsonResponse:
    try:
        return JsonResponse({"symbol": symbol, "cents": quote(symbol)})
    except PluginExecutionError as error:
        return JsonResponse({"error": error.message}, status=422)
    except PluginError as error:
        return JsonResponse({"error": "try again later" if error.retryable else "out of order"}, status=503)
