"""The plugins of the quickstart. To start one: goplugins serve services:auth --http 127.0.0.1:8000"""

import itertools
import time

from messages import AuthRequest, AuthResponse, QuoteRequest, QuoteResponse

from goplugins import ExecutionContext, serve

request_numbers = itertools.count(1)


@serve.plugin(name="auth", version="1.0.0")
def auth(request: AuthRequest) -> AuthResponse:
    if request.token != "open sesame":
        raise serve.Rejected("wrong token", code="AUTH_FAILED")
    return AuthResponse(valid=True, message=f"welcome, {request.user_id}")


@serve.plugin(name="slow", version="1.0.0")
def slow(request: QuoteRequest) -> QuoteResponse:
    time.sleep(3)
    return QuoteResponse(request.symbol, 0)


@serve.plugin(name="flaky", version="1.0.0")
def flaky(request: QuoteRequest, context: ExecutionContext) -> QuoteResponse:
    if next(request_numbers) % 3:
        raise serve.Unavailable("warming up")
    return QuoteResponse(request.symbol, 12_345)


@serve.plugin(name="quotes", version="1.0.0")
def quotes(request: QuoteRequest) -> QuoteResponse:
    return QuoteResponse(request.symbol, 9_900)


@serve.plugin(name="stock", version="1.0.0")
def stock(request: QuoteRequest) -> QuoteResponse:
    time.sleep(0.002)
    return QuoteResponse(request.symbol, 7)


@serve.plugin(name="echo", version="1.0.0")
def echo(request: QuoteRequest) -> QuoteResponse:
    return QuoteResponse(request.symbol, len(request.symbol))
