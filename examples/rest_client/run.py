"""Starts the service, calls it, stops it, and calls it again."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
SERVER = """
import logging
from service import app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def service() -> Iterator[subprocess.Popen[str]]:
    """Runs the service in a process; its address is in the environment."""
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            os.environ["SHOP_URL"] = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
            yield process
        finally:
            process.kill()


def show(text: str, call: Callable[[], object]) -> None:
    """Makes a call and prints its outcome."""
    from goplugins import CallResult, PluginError

    started = time.monotonic()
    try:
        outcome = call()
    except PluginError as error:
        outcome = f"{type(error).__name__}: {error}"
    if isinstance(outcome, CallResult):
        outcome = f"{outcome.value} (source: {outcome.source}, attempts: {outcome.attempts})"
    print(f"{text} -> {outcome} in {time.monotonic() - started:.1f} s", flush=True)


def main() -> None:
    os.environ["SHOP_TOKEN"] = secrets.token_hex(8)
    sys.path.insert(0, str(HERE))
    from shop_client import NewOrder, Sku, configure, count_orders, get_product, list_products, manager, order, rate

    with service() as process, manager:
        configure()
        show("a product", lambda: get_product(Sku("A-1")))
        show("its ETag", lambda: get_product.result(Sku("A-1")).metadata["ETag"])
        show("a product that does not exist", lambda: get_product(Sku("B-1")))
        show("the first attempt hangs", lambda: get_product.result(Sku("A-2")))
        show("all pages", lambda: " ".join(product.sku for product in list_products.pages({})))
        show("an order, whose first answer gets lost", lambda: order.result(NewOrder("acme", "A-1")))
        show("orders in the service", lambda: count_orders({}))
        show("an invalid order", lambda: order(NewOrder("acme", "A-1", count=0)))
        show("an empty path field", lambda: get_product(Sku("")))
        show("a rate, at first HTTP 429", lambda: rate.result({"currency": "EUR"}))
        show("the rate again", lambda: rate.result({"currency": "EUR"}).source)
        time.sleep(1.1)  # longer than the ttl of the cache
        process.kill()
        process.wait()
        print("the service is killed")
        show("the rate", lambda: rate.result({"currency": "EUR"}))
        show("another rate", lambda: rate.result({"currency": "GBP"}))
        show("a product", lambda: get_product(Sku("A-3")))
        show("a product", lambda: get_product(Sku("A-3")))
        print(manager.explain("shop"))


if __name__ == "__main__":
    main()
