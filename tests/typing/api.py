"""Types that mypy and pyright must infer; the file is never executed."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, assert_type

import attrs

from goplugins import BoundPlugin, CallInfo, CallResult, ExecutionContext, Manager, Plugin, PluginInfo, deadline, serve
from goplugins.models.results import HealthStatus


@attrs.frozen
class AuthRequest:
    user_id: str


@attrs.frozen
class AuthResponse:
    valid: bool


manager = Manager(AuthRequest, AuthResponse)
assert_type(manager, Manager[AuthRequest, AuthResponse])
assert_type(manager.execute("auth", AuthRequest("ada")), AuthResponse)
assert_type(manager.execute_result("auth", AuthRequest("ada")), CallResult[AuthResponse])
assert_type(manager.execute_result("auth", AuthRequest("ada")).value, AuthResponse)
assert_type(manager.submit("auth", AuthRequest("ada"), timeout=2), Future[AuthResponse])
assert_type(manager.map("auth", [AuthRequest("ada")]), Iterator[AuthResponse])
assert_type(manager.map_results("auth", [AuthRequest("ada")]), Iterator[CallResult[AuthResponse]])
assert_type(manager.get_plugin("auth"), Plugin[AuthRequest, AuthResponse])

manager.execute("auth", "ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

untyped = Manager()
assert_type(untyped, Manager[Any, Any])
assert_type(untyped.execute("anything", {"a": 1}), Any)

auth = untyped.bind("auth", AuthRequest, AuthResponse)
assert_type(auth, BoundPlugin[AuthRequest, AuthResponse])
assert_type(auth(AuthRequest("ada"), timeout=2), AuthResponse)
assert_type(auth.result(AuthRequest("ada")), CallResult[AuthResponse])
assert_type(auth.submit(AuthRequest("ada")), Future[AuthResponse])
assert_type(auth.map([AuthRequest("ada")]), Iterator[AuthResponse])
assert_type(manager.bind("auth"), BoundPlugin[AuthRequest, AuthResponse])

assert_type(auth.map_results([AuthRequest("ada")]), Iterator[CallResult[AuthResponse]])
assert_type(
    untyped.bind("either", AuthRequest | None, AuthResponse | None),
    BoundPlugin[AuthRequest | None, AuthResponse | None],
)
assert_type(untyped.bind("list", dict[str, Any], list[int]), BoundPlugin[dict[str, Any], list[int]])
either: Any = AuthRequest | None  # not known to a type checker
assert_type(untyped.bind("either", either, either), BoundPlugin[Any, Any])
assert_type(Manager(AuthRequest | None, AuthResponse | int), Manager[Any, Any])

auth(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def add_tenant(call: CallInfo, proceed: Callable[[], Any]) -> Any:
    """An interceptor."""
    assert_type(call.operation, str)
    assert_type(call.headers, Mapping[str, str])
    assert_type(call.context, ExecutionContext | None)
    call.headers = {**call.headers, "X-Tenant": call.key}
    call.request = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    return proceed()


assert_type(Manager(interceptors=[add_tenant]), Manager[Any, Any])
assert_type(Manager(AuthRequest, AuthResponse, interceptors=(add_tenant,)), Manager[AuthRequest, AuthResponse])
Manager(interceptors=[len])  # type: ignore[list-item]  # pyright: ignore[reportCallIssue, reportArgumentType]


class Local:
    """A plugin class needs no base class."""

    def info(self) -> PluginInfo:
        return PluginInfo("local")

    def execute(self, request: AuthRequest, context: ExecutionContext, /) -> AuthResponse:
        return AuthResponse(bool(request.user_id))

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus()

    def close(self) -> None: ...


local: Plugin[AuthRequest, AuthResponse] = Local()
manager.register(local)


@serve.plugin(name="auth")
def served(request: AuthRequest) -> AuthResponse:
    return AuthResponse(True)


served_as_plugin: Plugin[AuthRequest, AuthResponse] = served
assert_type(served(AuthRequest("ada")), AuthResponse)


@serve.plugin(name="auth")
def with_metadata(request: AuthRequest) -> serve.Reply[AuthResponse]:
    return serve.Reply(AuthResponse(True), metadata={"realm": "staff"})


assert_type(with_metadata(AuthRequest("ada")).value, AuthResponse)
manager.register(with_metadata)
loose = serve.plugin(name="loose", request=Any, response=Any)(lambda anything: anything)
assert_type(loose(3), Any)

with deadline(2.0) as limit:
    assert_type(limit.remaining(), float)

shop = serve.Plugin("shop", "1.0")


@shop.operation
def place(request: AuthRequest) -> AuthResponse:
    return AuthResponse(request.user_id == "ada")


@shop.operation(name="cancel", idempotent=True)
def cancel(request: str, context: ExecutionContext) -> None: ...


assert_type(place(AuthRequest("ada")), AuthResponse)
cancel("1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
untyped.register(shop)
serve.start(shop)
assert_type(untyped.bind("shop", AuthRequest, AuthResponse, operation="place"), BoundPlugin[AuthRequest, AuthResponse])
