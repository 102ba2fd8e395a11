"""Managers in other processes: a pickled manager is its configuration, and each process makes one manager of it.

Threads, connections and processes can't be pickled, and credentials should not be. So a manager pickles as its types,
its sizes and the source of its configuration: a file's path, or values with ``${VAR}`` still in them.
"""

from __future__ import annotations

import pickle
import re
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs

from goplugins.config import ManagerConfig
from goplugins.config.problems import Path, path_text
from goplugins.config.schema import Field, as_mappings, fields_of, plain
from goplugins.manager.interceptors import Interceptor, Interceptors
from goplugins.manager.lifecycle import Lifecycle
from goplugins.manager.reloading import ConfigLoader, ConfigSource
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.workers import WorkerPool

# By token. Dicts, since their operations are atomic.
_managers: dict[str, weakref.ref[Any]] = {}  # made in this process, or in its parent before the fork
_unpickled: dict[tuple[str, int], Any] = {}  # by loads as well: a manager for each configuration

MOST = 16
"""Unpickled managers that are kept although unused: the next task may bring the same manager again."""


@attrs.frozen
class ManagerState:
    """A manager's pickled state.

    Attributes:
        token: identifies the manager, across processes.
        loads: how often the manager had loaded a configuration; each one is another manager in other processes.
        types: request and response type; None where there are none.
        source: the configuration; None if none was loaded.
    """

    token: str
    loads: int
    types: tuple[Any, Any] | None
    max_workers: int
    max_queued: int
    source: ConfigSource | None


class ManagerPickler:
    """Pickles as the manager that it belongs to. Shared by the manager and its bound plugins.

    Args:
        manager: found again, while it lives, by unpickling in this process or in a forked child.
        kind: the class of managers.
        lifecycle: the manager's plugins and factories.
        loader: has the manager's configuration.
        pool: has the manager's sizes.
        types: the manager's request and response type; None where there are none.
        clock: the manager's clock.
        interceptors: the manager's; functions of modules pickle by their names.
    """

    def __init__(
        self,
        manager: object,
        kind: type[Any],
        lifecycle: Lifecycle,
        loader: ConfigLoader,
        pool: WorkerPool,
        types: tuple[Any, Any] | None,
        clock: Clock,
        interceptors: Interceptors,
    ) -> None:
        self._interceptors = interceptors
        self._token = token = uuid.uuid4().hex
        self._kind = kind
        self._lifecycle = lifecycle
        self._loader = loader
        self._pool = pool
        self._types = types
        self._clock = clock
        self._checked = -1  # the last load whose source was checked
        _managers[token] = weakref.ref(manager, partial(_managers.pop, token))

    def stand_for(self, token: str) -> None:
        """Pickles from now on as the manager with that token, of which this one is a copy in another process."""
        _managers.pop(self._token, None)
        self._token = token

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        functions = self._interceptors.functions
        return restore, (self._state(), self._kind, functions) if functions else (self._state(), self._kind)

    def _state(self) -> ManagerState:
        """The state to pickle.

        Raises:
            TypeError: the manager can't be pickled, and why.
        """
        loads, source = self._loader.loaded
        state = ManagerState(self._token, loads, self._types, self._pool.max_workers, self._pool.max_queued, source)
        if self._checked != loads and source is not None:
            _check_source(source)
            self._checked = loads
        registry = self._lifecycle.registry
        in_code = sorted(name for name, plugin in registry.plugins.items() if not plugin.from_config)
        factories = sorted(self._lifecycle.factories.registered)
        if registry.closed:
            raise _refusal("it was shut down")
        if in_code:
            raise _refusal(f"plugins were registered in code ({', '.join(in_code)}): register them in each process")
        if factories:
            raise _refusal(f"factories were registered in code ({', '.join(factories)}): make one in each process")
        if self._clock is not SYSTEM_CLOCK:
            raise _refusal("it has a clock of its own")
        reason = self._interceptors.not_picklable()
        if reason:
            raise _refusal(reason)
        return state


def restore(state: ManagerState, kind: type[Any], interceptors: tuple[Interceptor, ...] = ()) -> Any:
    """This process's manager for a pickled state: the original, one that was unpickled before, or a new one."""
    original = _managers.get(state.token)
    found = None if original is None else original()
    if found is not None:
        return found
    key = (state.token, state.loads)
    found = _unpickled.get(key)
    if found is None:
        found = _unpickled.setdefault(key, _copy(state, kind, interceptors))
        outdated = [old for old in list(_unpickled) if old[0] == state.token and old != key]
        for old in [*outdated, *list(_unpickled)[:-MOST]]:
            _unpickled.pop(old, None)  # its calls go on; it is collected with the last of them
    return found


def _copy(state: ManagerState, kind: type[Any], interceptors: tuple[Interceptor, ...]) -> Any:
    manager = kind(
        *(state.types or ()),
        max_workers=state.max_workers,
        max_queued=state.max_queued,
        interceptors=interceptors,
    )
    manager._pickler.stand_for(state.token)
    manager._loader.load_later(state.loads, state.source)
    return manager


def _refusal(reason: str) -> TypeError:
    return TypeError(f"this manager does not pickle: {reason}")


def _check_source(source: ConfigSource) -> None:
    if isinstance(source, str):
        return
    secrets = list(literal_secrets(source))
    if secrets:
        raise _refusal(
            f"its configuration holds literal values that may be secret ({', '.join(secrets)}): "
            "write ${VAR} for them, or load it from a file"
        )
    try:
        pickle.dumps(source)
    except Exception as exc:
        raise _refusal(f"its configuration holds something that does not: {exc}") from exc


# --- secrets ---------------------------------------------------------------------------------------------------

_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::([^}]*))?\}")


def literal_secrets(source: ConfigSource) -> Iterator[str]:
    """Paths of all values that would be masked and do not come from the environment.

    >>> auth = {"method": "bearer", "token": "s3cr3t"}
    >>> list(literal_secrets({"plugins": [{"name": "a", "endpoint": "http://${HOST}", "auth": auth}]}))
    ['plugins[0].auth.token']
    """
    yield from _literal(ManagerConfig, as_mappings(source), ())


def _literal(kind: type[Any], values: Any, path: Path) -> Iterator[str]:
    if not isinstance(values, Mapping):
        return
    for field in fields_of(kind):
        value, here = values.get(field.name), (*path, field.name)
        if value is None:
            continue
        if field.masked is not None:
            literal = plain(_without_references(value))
            if _hides(literal, plain(field.masked.mask(literal))):
                yield path_text(here)
        else:
            for section, each, step in _sections(field, value):
                yield from _literal(section, each, (*here, *step))


def _sections(field: Field, value: Any) -> Iterator[tuple[type[Any], Any, Path]]:
    """The sections in a field's value, each with its class and the rest of its path."""
    item = field.item
    if field.section is not None:
        yield field.section, value, ()
    elif field.table is not None and isinstance(value, Mapping):
        for name, each in value.items():
            yield field.table, each, (name,)
    elif isinstance(item, type) and attrs.has(item) and isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield item, each, (index,)


def _without_references(value: Any) -> Any:
    """A copy with each ``${VAR:default}`` replaced by its default."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: found[1] or "", value)
    if isinstance(value, Mapping):
        return {key: _without_references(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_references(item) for item in value]
    return value


def _hides(value: Any, masked: Any) -> bool:
    """Whether masking hides more than punctuation."""
    if isinstance(value, Mapping) and isinstance(masked, Mapping):
        return any(_hides(item, masked.get(key)) for key, item in value.items())
    if isinstance(value, list) and isinstance(masked, list):
        return any(map(_hides, value, masked))
    if value == masked:
        return False
    if not (isinstance(value, str) and isinstance(masked, str)):
        return True
    return sum(map(str.isalnum, masked)) < sum(map(str.isalnum, value))
