"""The plugins that are served over each transport, at module level so that other processes can import them."""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import attrs

from goplugins import ExecutionContext, serve

# --- values ----------------------------------------------------------------------------------------------------


@serve.plugin(name="echo", version="1.2.3", description="returns its request", capabilities=["execute"])
def echo(request: Any) -> Any:
    return request


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@attrs.frozen
class Line:
    name: str
    count: int
    price: decimal.Decimal
    tags: list[str] = attrs.field(factory=list)


@attrs.frozen
class Order:
    id: uuid.UUID
    at: datetime.datetime
    lines: list[Line]
    colour: Colour
    photo: bytes
    stock: dict[str, int]
    weight: float
    note: str | None = None


@attrs.frozen
class Receipt:
    order: Order
    total: decimal.Decimal
    urgent: bool


@serve.plugin(name="orders", version="2.0")
def orders(order: Order) -> Receipt:
    total = sum((line.price * line.count for line in order.lines), decimal.Decimal(0))
    return Receipt(order, total, urgent=order.note == "urgent")


# --- behaviour -------------------------------------------------------------------------------------------------


@attrs.frozen
class Task:
    """A request to the worker.

    Attributes:
        do: name of one of the functions below.
        value: the value of the reply; of "hang" also the file whose appearance it waits for.
        seconds: minimum duration.
        ledger: file to which each execution appends a line: request, key, timeout and process.
        until: file whose appearance the worker waits for.
        times: number of failures before it succeeds.
        wait: ``retry_after`` of an unavailable worker, in seconds.
    """

    do: str = "answer"
    value: Any = None
    seconds: float = 0.0
    ledger: str = ""
    until: str = ""
    times: int = 1_000_000
    wait: float = 0.2


@attrs.frozen
class Done:
    """``started`` and ``ended``: monotonic time, which is the same in all processes of a machine."""

    value: Any
    pid: int
    started: float
    ended: float


def lines_of(ledger: os.PathLike[str] | str) -> list[str]:
    """Lines of the ledger, one per execution."""
    try:
        with open(ledger) as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _write_ledger(task: Task, context: ExecutionContext) -> int:
    """Appends the execution to the ledger; returns the number of executions."""
    if not task.ledger:
        return 0
    key = next((value for name, value in context.headers.items() if name.lower() == "idempotency-key"), "")
    line = f"{context.request_id} {key or '-'} {context.timeout or 0:.3f} {os.getpid()}\n"
    descriptor = os.open(task.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return len(lines_of(task.ledger))


def _answer(task: Task, context: ExecutionContext) -> Any:
    return task.value


def _reject(task: Task, context: ExecutionContext) -> Any:
    raise serve.Rejected(str(task.value or "not in stock"), code="SOLD_OUT", metadata={"sku": "42"})


def _crash(task: Task, context: ExecutionContext) -> Any:
    raise ValueError("the password is hunter2")


def _unavailable(task: Task, context: ExecutionContext) -> Any:
    raise serve.Unavailable("warming up")


def _unavailable_for_now(task: Task, context: ExecutionContext) -> Any:
    raise serve.Unavailable("warming up", retry_after=task.wait)


def _unserialisable(task: Task, context: ExecutionContext) -> Any:
    return object()


def _context(task: Task, context: ExecutionContext) -> Any:
    return {
        "request_id": context.request_id,
        "headers": {name.lower(): value for name, value in context.headers.items()},
        "metadata": dict(context.metadata),
        "timeout": context.timeout,
    }


def _hang(task: Task, context: ExecutionContext) -> Any:
    end = time.monotonic() + _MAX_WAIT
    while not os.path.exists(task.value) and time.monotonic() < end:
        time.sleep(0.005)
    return task.value


_ACTIONS: dict[str, Callable[[Task, ExecutionContext], Any]] = {
    "answer": _answer,
    "reject": _reject,
    "crash": _crash,
    "unavailable": _unavailable,
    "unavailable for now": _unavailable_for_now,
    "unserialisable": _unserialisable,
    "hang": _hang,
    "context": _context,
}

_MAX_WAIT = 20.0


def work(task: Task, context: ExecutionContext) -> Done:
    started = time.monotonic()
    number = _write_ledger(task, context)
    if task.seconds:
        time.sleep(task.seconds)
    while task.until and not os.path.exists(task.until) and time.monotonic() < started + _MAX_WAIT:
        time.sleep(0.005)
    action = _ACTIONS[task.do] if number <= task.times else _answer
    return Done(action(task, context), os.getpid(), started, time.monotonic())


worker = serve.plugin(name="worker", version="1.2.3", description="executes a task")(work)
unhealthy = serve.plugin(name="unhealthy", health=lambda: "the disk is full")(work)
degraded = serve.plugin(name="degraded", health=lambda: "degraded")(work)


# --- operations ------------------------------------------------------------------------------------------------


@attrs.frozen
class Item:
    name: str
    count: int = 1


stock = serve.Plugin("stock", "3.0", description="has items", metadata={"team": "shop"})


@stock.operation(idempotent=True)
def get(name: str) -> Item | None:
    """Finds an item.

    By its whole name.
    """
    return None if name == "unicorn" else Item(name, len(name))


@stock.operation
def add(item: Item, context: ExecutionContext) -> list[Item]:
    return [item] * item.count


@stock.operation(name="stock.work")
def work_in_stock(task: Task, context: ExecutionContext) -> Done:
    return work(task, context)


@stock.operation(name="seen", description="what the plugin gets")
def seen(value: Any, context: ExecutionContext) -> dict[str, Any]:
    return {"value": value, "operation": context.operation, **_context(Task(), context)}


till = serve.Plugin("till")


@till.operation(default=True)
def total(items: list[Item]) -> int:
    return sum(item.count for item in items)


@till.operation
def names(items: list[Item], context: ExecutionContext) -> str:
    return ", ".join([context.operation, *(item.name for item in items)])
