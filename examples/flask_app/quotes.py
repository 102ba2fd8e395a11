"""The plugin: a typed function, served by its own process."""

import time

from goplugins import serve

PRICES = {"ACME": 12_345, "GLOBEX": 9_900}


@serve.plugin(name="quotes", version="1.0.0")
def quotes(symbol: str) -> int:
    if symbol == "SLOW":
        time.sleep(5)
    if symbol not in PRICES:
        raise serve.Rejected(f"no such symbol: {symbol}", code="UNKNOWN_SYMBOL")
    return PRICES[symbol]
