from __future__ import annotations

import gc
import ssl
import weakref

import pytest
import trustme

from goplugins.config import AuthConfig
from goplugins.transports.tls import client_context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority, tmp_path, monkeypatch):
    """The machine's authorities."""
    path = tmp_path / "machine.pem"
    authority.cert_pem.write_to_path(str(path))
    paths = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", str(path), "SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    return path


def test_plugins_that_trust_the_machines_authorities_share_them(bundle):
    first, second = client_context(AuthConfig()), client_context(AuthConfig(method="bearer", token="t"))
    assert first is second
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    assert len(first.get_ca_certs()) == 1


def test_contexts_with_other_authorities_or_certificates_are_not_shared(bundle, authority, tmp_path):
    own = tmp_path / "own.pem"
    trustme.CA().cert_pem.write_to_path(str(own))
    pair = authority.issue_cert("client")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    pair.cert_chain_pems[0].write_to_path(str(chain))
    pair.private_key_pem.write_to_path(str(key))
    usual = client_context(AuthConfig())
    private = client_context(AuthConfig(ca_file=str(own)))
    presenting = client_context(AuthConfig(method="mtls", cert_file=str(chain), key_file=str(key)))
    assert len({id(usual), id(private), id(presenting)}) == 3
    assert private.get_ca_certs() != usual.get_ca_certs() == presenting.get_ca_certs()


def test_changed_authorities_are_read_again(bundle):
    before = client_context(AuthConfig())
    trustme.CA().cert_pem.write_to_path(str(bundle), append=True)
    after = client_context(AuthConfig())
    assert (len(before.get_ca_certs()), len(after.get_ca_certs())) == (1, 2)


def test_unused_contexts_are_not_kept(bundle):
    gone = weakref.ref(client_context(AuthConfig()))
    gc.collect()
    assert gone() is None
