"""A REST service written with Flask, without goplugins: ``flask --app service run``. Some answers need patience."""

import itertools
import os
import threading
import time
from collections import Counter

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

app = Flask(__name__)
lock = threading.Lock()
attempts: Counter[str] = Counter()
orders: dict[str, dict[str, str | int]] = {}
numbers = itertools.count(1)
PRODUCTS = [{"sku": f"A-{number}", "name": f"lamp {number}", "cents": 1_000 * number} for number in range(1, 8)]


def first_times(what: str, count: int) -> bool:
    """Whether this is one of the first ``count`` requests of a kind."""
    with lock:
        attempts[what] += 1
        return attempts[what] <= count


def problem(status: int, title: str, detail: str) -> ResponseReturnValue:
    """Problem details (RFC 9457)."""
    return jsonify(title=title, detail=detail), status, {"Content-Type": "application/problem+json"}


@app.before_request
def authenticate() -> ResponseReturnValue | None:
    if request.headers.get("Authorization") != f"Bearer {os.environ['SHOP_TOKEN']}":
        return problem(401, "Unauthorized", "the token is missing or wrong")
    return None


@app.get("/v1/products/<sku>")
def product(sku: str) -> ResponseReturnValue:
    if sku == "A-2" and first_times("slow", 1):
        time.sleep(3)
    found = [each for each in PRODUCTS if each["sku"] == sku]
    if not found:
        return problem(404, "Unknown product", f"there is no product {sku}")
    return jsonify(found[0]), {"ETag": f'"{sku}-v1"'}


@app.get("/v1/products")
def products() -> ResponseReturnValue:
    page = int(request.args.get("page", 1))
    more = page * 3 < len(PRODUCTS)
    link = {"Link": f'<{request.base_url}?page={page + 1}>; rel="next"'} if more else {}
    return jsonify(PRODUCTS[page * 3 - 3 : page * 3]), link


@app.post("/v1/orders")
def order() -> ResponseReturnValue:
    fields, key = request.get_json(), request.headers["Idempotency-Key"]
    if fields["count"] < 1:
        return problem(422, "Invalid order", "count must be at least 1")
    with lock:
        known = orders.setdefault(key, {"id": next(numbers), "tenant": request.headers["X-Tenant"], **fields})
    if first_times("order", 1):
        return problem(500, "Internal error", "the order was stored, and the answer got lost")
    return jsonify(known), 201


@app.get("/v1/orders")
def all_orders() -> ResponseReturnValue:
    return jsonify(count=len(orders))


@app.get("/v1/rates/<currency>")
def rate(currency: str) -> ResponseReturnValue:
    if first_times("busy", 1):
        return jsonify(message="too many requests"), 429, {"Retry-After": "0.2"}
    return jsonify(rates={currency: 1.08})
