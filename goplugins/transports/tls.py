"""TLS settings of all transports: version 1.2 or newer, always verified."""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING

from goplugins.enums import AuthMethod
from goplugins.errors import InvalidCertificateError

if TYPE_CHECKING:
    from goplugins.config import AuthConfig


def client_context(auth: AuthConfig, *, ca_file: str = "") -> ssl.SSLContext:
    """The context for connections to a plugin. Must not be modified: plugins with the same settings share it.

    ``auth.ca_file`` replaces the machine's authorities. A client certificate is presented if ``auth`` has one.

    Args:
        auth: its ``ca_file``, and with the method mtls its ``cert_file`` and ``key_file``.
        ca_file: authorities to use if ``auth`` has none, such as those of an environment variable.

    Raises:
        InvalidCertificateError: a file is missing or can't be used; ``path`` is the field.
    """
    authorities = auth.ca_file or ca_file
    presents = auth.cert_file or AuthMethod(auth.method or AuthMethod.NONE) is AuthMethod.MTLS
    if not authorities and not presents:
        return _default_context()
    context = _new_context()
    if authorities:
        _load_authorities(context, authorities)
    else:
        _load_default_authorities(context)
    if presents:
        _load_client_certificate(context, auth.cert_file or "", auth.key_file or "")
    return context


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


_default_contexts: weakref.WeakValueDictionary[Hashable, ssl.SSLContext] = weakref.WeakValueDictionary()


def _default_context() -> ssl.SSLContext:
    """The context with the machine's authorities and no client certificate, shared until those files change.

    Loading the authorities takes tens of milliseconds, and most of a megabyte of memory.
    """
    paths = ssl.get_default_verify_paths()
    seen = (_stamp(paths.cafile), _stamp(paths.capath))
    context = _default_contexts.get(seen)
    if context is None:
        context = _new_context()
        _load_default_authorities(context)
        _default_contexts[seen] = context
    return context


def _stamp(path: str | None) -> Hashable:
    """Changes when the file or directory changes."""
    try:
        found = os.stat(path or "")
    except OSError:
        return path
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _load_default_authorities(context: ssl.SSLContext) -> None:
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if context.cert_store_stats()["x509_ca"]:
        return
    # A directory of authorities is read only during a handshake and not counted until then.
    directory = ssl.get_default_verify_paths().capath
    if directory is None or not os.listdir(directory):
        import certifi  # installed with requests; needed in images without ca-certificates

        context.load_verify_locations(certifi.where())


def _load_authorities(context: ssl.SSLContext, file: str) -> None:
    _check_pem(file, "ca_file", "CERTIFICATE-----")
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as exc:
        raise _invalid("ca_file", file, tls_reason(exc)) from exc


def _load_client_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    _check_pem(cert_file, "cert_file", "CERTIFICATE-----")
    _check_pem(key_file, "key_file", "PRIVATE KEY-----")

    def no_passphrase() -> str:
        # Without this, OpenSSL would prompt on the terminal and wait.
        raise _invalid("key_file", key_file, "it is encrypted; use an unencrypted key")

    try:
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise _invalid("key_file", key_file, "it does not belong to cert_file") from exc
        raise _invalid("cert_file", cert_file, tls_reason(exc)) from exc


def _check_pem(file: str, field: str, marker: str) -> None:
    """Checks each file by itself: OpenSSL does not say which of two files is at fault."""
    if not file:
        raise InvalidCertificateError("missing", path=f"auth.{field}", fix="write the path of a PEM file")
    if marker.encode() not in read_pem(file, f"auth.{field}"):
        kind = "private key" if "KEY" in marker else "certificate"
        raise _invalid(field, file, f"it contains no {kind} in PEM form")


def read_pem(file: str, path: str) -> bytes:
    """The contents of a certificate or key file.

    Raises:
        InvalidCertificateError: it can't be read; ``path`` is that of the configuration field.
    """
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as exc:
        raise InvalidCertificateError(f"{file!r} can't be used: {exc.strerror or exc}", path=path) from exc


def tls_reason(exc: ssl.SSLError) -> str:
    """OpenSSL's name for an error, as words."""
    return (exc.reason or str(exc)).replace("_", " ").lower()


def _invalid(field: str, file: str, reason: str) -> InvalidCertificateError:
    return InvalidCertificateError(f"{file!r} can't be used: {reason}", path=f"auth.{field}")
