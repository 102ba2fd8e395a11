"""Server process of the gRPC rows: a grpcio server with one method that does little work."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from benchmarks.messages import answer_json
from goplugins.transports.grpc.messages import EXECUTE, messages

__all__: list[str] = []


def main() -> None:
    kinds, payload = messages(), answer_json(int(sys.argv[1]))

    def execute(request: Any, _: Any) -> Any:
        return kinds.ExecuteResponse(payload=payload, request_id=request.request_id)

    handler = grpc.unary_unary_rpc_method_handler(
        execute,
        request_deserializer=kinds.ExecuteRequest.FromString,
        response_serializer=kinds.ExecuteResponse.SerializeToString,
    )
    service, method = EXECUTE.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()  # returns when the parent process ends
    server.stop(None)


if __name__ == "__main__":
    main()
