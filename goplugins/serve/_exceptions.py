"""What a served function may raise: no to the request, and not now."""

from __future__ import annotations

import math
from collections.abc import Mapping

from goplugins.errors import InvalidArgumentError

__all__ = ["Rejected", "Unavailable"]

_LONGEST_WAIT = 86_400.0


class Rejected(Exception):  # noqa: N818 - a verdict on the request, not a failure of the plugin
    """The plugin understood the request and says no: a business error, which the caller sees with this text.

    Args:
        message: for the caller; shown as it is, so no secrets.
        code: an error code of the plugin's own; travels as ``error_code`` in the metadata.
        metadata: further facts for the caller.

    >>> Rejected("wrong password", code="AUTH_FAILED").metadata
    {'error_code': 'AUTH_FAILED'}
    """

    def __init__(self, message: str, *, code: str = "", metadata: Mapping[str, str] | None = None) -> None:
        # Never empty: on the wire an empty error means that there is none.
        self.message = str(message) or code or "rejected"
        super().__init__(self.message)
        self.code = code
        self.metadata = {str(name): str(value) for name, value in (metadata or {}).items()}
        if code:
            self.metadata["error_code"] = code


class Unavailable(Exception):  # noqa: N818 - a verdict on the moment, not a failure of the plugin
    """The plugin can't answer now and has done nothing: the caller may try again, as its own policy allows.

    Args:
        message: for the caller; shown as it is, so no secrets.
        retry_after: seconds after which it is worth another try, a day at most. Said, it makes a retry safe for any
            call.

    Raises:
        InvalidArgumentError: ``retry_after`` is no finite number of 0 or more.
    """

    def __init__(self, message: str = "unavailable", *, retry_after: float | None = None) -> None:
        if retry_after is not None:
            if not isinstance(retry_after, int | float) or not 0 <= retry_after < math.inf:
                raise InvalidArgumentError(f"retry_after: expected finite seconds of 0 or more, got {retry_after!r}")
            retry_after = min(retry_after, _LONGEST_WAIT)
        self.message = str(message) or "unavailable"
        super().__init__(self.message)
        self.retry_after = retry_after
