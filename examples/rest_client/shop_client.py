"""The client: types and operations of the service. What makes its calls reliable is in plugins.yaml."""

from pathlib import Path

import attrs

from goplugins import Manager


@attrs.frozen
class Sku:
    sku: str


@attrs.frozen
class Product:
    sku: str
    name: str
    cents: int


@attrs.frozen
class NewOrder:
    tenant: str
    sku: str
    count: int = 1


@attrs.frozen
class Order:
    id: int
    tenant: str
    sku: str


manager = Manager()
get_product = manager.bind("shop", Sku, Product | None, operation="get_product")
list_products = manager.bind("shop", dict[str, str], list[Product], operation="list_products")
order = manager.bind("shop", NewOrder, Order, operation="order")
count_orders = manager.bind("shop", dict[str, str], int, operation="count_orders")
rate = manager.bind("rates", dict[str, str], dict[str, float], operation="rate")


def configure() -> None:
    """Loads plugins.yaml; the address and token of the service come from the environment."""
    manager.load_from_config(Path(__file__).with_name("plugins.yaml"))
