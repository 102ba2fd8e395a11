"""TLS settings of all transports: version 1.2 or newer, always verified."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import ssl
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from goplugins.enums import AuthMethod
from goplugins.errors import InvalidCertificateError

if TYPE_CHECKING:
    from goplugins.config import AuthConfig


_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""Names by which OpenSSL finds a certificate in a directory."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_ENVIRONMENT = "options.trust_env"
"""The configuration field by which the environment decides."""


@attrs.frozen
class Authorities:
    """Where the certificates of the authorities are that a plugin's certificate is verified with.

    Attributes:
        file: PEM; empty for none.
        directory: with files named by OpenSSL's hash of their subject; several are separated by ``os.pathsep``.
        named: the one of them that the configuration or the environment names; empty for the machine's.
        path: the configuration field that decides.
        origin: the environment variable that names them, with a colon; empty for none.
    """

    file: str
    directory: str = ""
    named: str = ""
    path: str = "auth.ca_file"
    origin: str = ""

    @property
    def stamp(self) -> Hashable:
        """Changes when a file or directory changes."""
        return tuple(map(file_stamp, (self.file, *self.directory.split(os.pathsep))))

    def load(self, context: ssl.SSLContext) -> None:
        """Has ``context`` trust them.

        Raises:
            InvalidCertificateError: they can't be used.
        """
        try:
            context.load_verify_locations(self.file or None, self.directory or None)
        except ssl.SSLError as exc:
            raise self.unusable(self.file, tls_reason(exc)) from exc

    def pem(self) -> bytes:
        """All certificates, each once.

        Raises:
            InvalidCertificateError: there is none.
        """
        contents = read_pem(self.file, self.path, self.origin) if self.file else b""
        if self.directory:
            contents += _contents_of(self.directory, self.stamp)
        found = dict.fromkeys(_CERTIFICATE.findall(contents))
        if not found:
            raise self.unusable(self.file or self.directory, "it contains no certificate")
        return b"\n".join(found) + b"\n"

    def unusable(self, file: str, reason: str) -> InvalidCertificateError:
        return _invalid(self.path, file, reason, self.origin)


@functools.lru_cache(maxsize=4)
def _contents_of(directory: str, stamp: Hashable) -> bytes:
    """Of all files in which OpenSSL finds certificates; kept until the directory changes: they may be hundreds."""
    contents = []
    for folder in directory.split(os.pathsep):
        with contextlib.suppress(OSError):
            for name in sorted(filter(_HASHED.fullmatch, os.listdir(folder))):
                with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as stream:
                    contents.append(stream.read())
    return b"\n".join(contents)


def authorities_of(auth: AuthConfig, *, trust_env: bool, variables: Sequence[str] = ()) -> Authorities:
    """``auth.ca_file``, else what the environment names if it is trusted, else the machine's authorities.

    Args:
        auth: of the plugin.
        trust_env: whether the environment may name them.
        variables: of the transport, before those that all transports have.

    Raises:
        InvalidCertificateError: a file or directory does not exist, or the file holds no certificate.
    """
    if auth.ca_file:
        _check_pem(auth.ca_file, "auth.ca_file", "CERTIFICATE-----")
        return Authorities(auth.ca_file, named=auth.ca_file)
    return (_from_environment(variables) if trust_env else None) or _of_machine()


def _from_environment(variables: Sequence[str]) -> Authorities | None:
    for name in (*variables, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        value = os.environ.get(name)
        if value and os.path.isdir(value):
            return Authorities("", value, value, _ENVIRONMENT, f"{name}: ")
        if value:
            return _in_file(name, value)
    file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not directory:
        return None
    if directory and not any(map(os.path.isdir, directory.split(os.pathsep))):
        raise _invalid(_ENVIRONMENT, directory, "there is no such directory", "SSL_CERT_DIR: ")
    machine = _of_machine()  # for what one of the two leaves out, as in OpenSSL
    if file:
        return attrs.evolve(_in_file("SSL_CERT_FILE", file), directory=directory or machine.directory)
    directory = directory or ""
    return Authorities(machine.file, directory, directory, _ENVIRONMENT, "SSL_CERT_DIR: ")


def _in_file(name: str, file: str) -> Authorities:
    _check_pem(file, _ENVIRONMENT, "CERTIFICATE-----", f"{name}: ")
    return Authorities(file, "", file, _ENVIRONMENT, f"{name}: ")


def _of_machine() -> Authorities:
    """The machine's authorities. ``load_default_certs`` of ssl would read SSL_CERT_FILE and SSL_CERT_DIR."""
    paths = ssl.get_default_verify_paths()
    file, directory = paths.openssl_cafile, paths.openssl_capath
    file = file if os.path.isfile(file) else ""
    directory = directory if os.path.isdir(directory) and os.listdir(directory) else ""
    if not file and not directory:
        import certifi  # installed with requests; needed in images without ca-certificates

        file = certifi.where()
    return Authorities(file, directory)


def client_context(auth: AuthConfig, *, trust_env: bool = False) -> ssl.SSLContext:
    """The context for connections to a plugin. Must not be modified: plugins with the same settings share it.

    A client certificate is presented if ``auth`` has one.

    Args:
        auth: its ``ca_file``, and with the method mtls its ``cert_file`` and ``key_file``.
        trust_env: whether the environment may name the authorities.

    Raises:
        InvalidCertificateError: a file is missing or can't be used; ``path`` is the field.
    """
    context = _client_context(auth, trust_env)
    _remade[context] = partial(_client_context, auth, trust_env)
    return context


def token_endpoint_context(auth: AuthConfig, *, trust_env: bool) -> ssl.SSLContext:
    """The context for connections to ``auth.token_url``. Must not be modified.

    ``auth.ca_file`` is trusted beside the machine's authorities, or those of the environment: a plugin with a private
    authority often gets its tokens from a public service. No client certificate is presented.

    Raises:
        InvalidCertificateError: as :func:`client_context`.
    """
    others = attrs.evolve(auth, method=None, ca_file="", cert_file="", key_file="")
    if not auth.ca_file:
        return client_context(others, trust_env=trust_env)

    def make() -> ssl.SSLContext:
        context = _new_context(authorities_of(others, trust_env=trust_env))
        authorities_of(auth, trust_env=trust_env).load(context)
        return context

    context = make()
    _remade[context] = make
    return context


_remade: weakref.WeakKeyDictionary[ssl.SSLContext, Callable[[], ssl.SSLContext]] = weakref.WeakKeyDictionary()


def usable_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, or one like it if gevent or eventlet has replaced its class since: the old one can't be used then.

    A worker does that after its master has loaded the configuration.
    """
    make = None if type(context) is ssl.SSLContext else _remade.get(context)
    if make is None:
        return context
    try:
        return make()
    except InvalidCertificateError as error:
        error.elsewhere = True
        raise


def _client_context(auth: AuthConfig, trust_env: bool) -> ssl.SSLContext:
    authorities = authorities_of(auth, trust_env=trust_env)
    presents = auth.cert_file or AuthMethod(auth.method or AuthMethod.NONE) is AuthMethod.MTLS
    if auth.ca_file or presents:
        context = _new_context(authorities)
        if presents:
            _load_client_certificate(context, auth.cert_file or "", auth.key_file or "")
        return context
    # Loading the authorities takes tens of milliseconds, and most of a megabyte of memory.
    seen = (ssl.SSLContext, authorities.stamp)
    shared = _shared_contexts.get(seen)
    if shared is None:
        shared = _shared_contexts[seen] = _new_context(authorities)
    return shared


_shared_contexts: weakref.WeakValueDictionary[Hashable, ssl.SSLContext] = weakref.WeakValueDictionary()
"""Contexts of plugins without files of their own, until those of the machine or the environment change."""


def _new_context(authorities: Authorities) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An intermediate authority, or the plugin's own certificate, can be trusted without its root, as over gRPC.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    authorities.load(context)
    return context


def file_stamp(path: str) -> Hashable:
    """Changes when the file does, or one takes its place."""
    try:
        found = os.stat(path)
    except OSError:
        return path
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _load_client_certificate(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    _check_pem(cert_file, "auth.cert_file", "CERTIFICATE-----")
    _check_pem(key_file, "auth.key_file", "PRIVATE KEY-----")

    def no_passphrase() -> str:
        # Without this, OpenSSL would prompt on the terminal and wait.
        raise _invalid("auth.key_file", key_file, "it is encrypted; use an unencrypted key")

    try:
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise _invalid("auth.key_file", key_file, "it does not belong to cert_file") from exc
        raise _invalid("auth.cert_file", cert_file, tls_reason(exc)) from exc


def _check_pem(file: str, path: str, marker: str, origin: str = "") -> None:
    """Checks each file by itself: OpenSSL does not say which of two files is at fault."""
    if not file:
        raise InvalidCertificateError("missing", path=path, fix="write the path of a PEM file")
    if marker.encode() not in read_pem(file, path, origin):
        kind = "private key" if "KEY" in marker else "certificate"
        raise _invalid(path, file, f"it contains no {kind} in PEM form", origin)


def read_pem(file: str, path: str, origin: str = "") -> bytes:
    """The contents of a certificate or key file.

    Args:
        file: to read.
        path: the configuration field that decides.
        origin: the environment variable that names the file, with a colon; empty for none.

    Raises:
        InvalidCertificateError: it can't be read.
    """
    try:
        with open(file, "rb") as stream:
            return stream.read()
    except OSError as exc:
        raise _invalid(path, file, exc.strerror or str(exc), origin) from exc


def tls_reason(exc: ssl.SSLError) -> str:
    """OpenSSL's name for an error, as words."""
    return (exc.reason or str(exc)).replace("_", " ").lower()


def _invalid(path: str, file: str, reason: str, origin: str = "") -> InvalidCertificateError:
    return InvalidCertificateError(f"{origin}{file!r} can't be used: {reason}", path=path)
