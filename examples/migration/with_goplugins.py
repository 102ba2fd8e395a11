"""The same call with goplugins: what by_hand.py spells out is in plugins.yaml."""

from dataclasses import dataclass
from pathlib import Path

from goplugins import Manager


@dataclass(frozen=True)
class Item:
    sku: str
    stock: int


manager = Manager()
manager.load_from_config(Path(__file__).with_name("plugins.yaml"))
item = manager.bind("shop", dict[str, str], Item | None, operation="get_item")


def get_item(sku: str) -> Item | None:
    return item({"sku": sku})
