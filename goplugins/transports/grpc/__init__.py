"""Plugins behind gRPC. `grpc` is loaded when the first one is built."""

from __future__ import annotations

from goplugins.transports.grpc.plugin import GRPCPlugin, GRPCPluginFactory

__all__ = ["GRPCPlugin", "GRPCPluginFactory"]
