"""One call of a REST service by hand: requests, tenacity, pybreaker and cachetools."""

import os
import threading
from dataclasses import dataclass
from urllib.parse import quote

import cachetools
import pybreaker
import requests
import tenacity

URL, TOKEN = os.environ["SHOP_URL"], os.environ["SHOP_TOKEN"]
REPEATED = {429, 500, 502, 503, 504}
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Item:
    sku: str
    stock: int


class UnavailableError(Exception):
    """Worth another attempt, after ``wait`` seconds where the service names them."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


thread = threading.local()  # a requests.Session is not for several threads
backoff = tenacity.wait_random_exponential(multiplier=0.1, max=5)
breaker = pybreaker.CircuitBreaker(
    fail_max=5, reset_timeout=30, throw_new_error_on_trip=False, exclude=[requests.HTTPError]
)


def wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(backoff(state), error.wait if isinstance(error, UnavailableError) else 0.0)


@breaker
def attempt(sku: str) -> Item | None:
    if not hasattr(thread, "session"):
        thread.session = requests.Session()
    url, headers = f"{URL}/items/{quote(sku, safe='')}", {"Authorization": f"Bearer {TOKEN}"}
    try:
        reply = thread.session.get(url, headers=headers, timeout=1, allow_redirects=False)
    except LOST as error:
        raise UnavailableError(str(error)) from error
    if reply.status_code == 404:
        return None
    if reply.status_code in REPEATED:
        raise UnavailableError(f"HTTP {reply.status_code}", float(reply.headers.get("Retry-After", 0)))
    reply.raise_for_status()
    fields = reply.json()
    return Item(sku=str(fields["sku"]), stock=int(fields["stock"]))


@cachetools.cached(cachetools.TTLCache(maxsize=1000, ttl=60), lock=threading.Lock())
@tenacity.retry(
    retry=tenacity.retry_if_exception_type(UnavailableError),
    stop=tenacity.stop_after_attempt(4) | tenacity.stop_before_delay(5),
    wait=wait,
    reraise=True,
)
def get_item(sku: str) -> Item | None:
    return attempt(sku)
