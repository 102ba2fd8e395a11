from __future__ import annotations

import pytest

from goplugins.errors import InvalidConfigError
from goplugins.transports.proxies import parse_proxy, proxy_of_environment


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for scheme in ("http", "https", "all", "grpc", "no", "no_grpc"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    return monkeypatch


def port_of(host="api.example.com", port=443, schemes=("https", "all")):
    found = proxy_of_environment(host, port, schemes)
    return None if found is None else found.port


@pytest.mark.parametrize(
    ("excluded", "host", "port", "covered"),
    [
        ("*", "api.example.com", 443, True),
        ("example.com", "api.example.com", 443, True),
        ("example.com", "example.com", 443, True),
        (".example.com", "example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("EXAMPLE.com.", "api.Example.COM", 443, True),
        ("ample.com", "example.com", 443, False),
        ("api.example.com", "example.com", 443, False),
        ("example.com:443", "api.example.com", 443, True),
        ("example.com:80", "api.example.com", 443, False),
        ("other.net,example.com", "api.example.com", 443, True),
        ("other.net  example.com", "api.example.com", 443, True),
        ("other.net,,", "api.example.com", 443, False),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3:80", "10.1.2.3", 80, True),
        ("10.1.2.3:81", "10.1.2.3", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.1.2.9/8", "10.1.2.3", 80, True),
        ("10.0.0.0/99", "10.1.2.3", 80, False),
        ("1.2.3", "10.1.2.3", 80, False),
        ("10.0.0.0/8", "ten.example.com", 80, False),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
        ("0:0:0:0:0:0:0:1", "::1", 80, True),
        ("fd00::/8", "fd12::1", 80, True),
        ("fe80::1", "fe80::1%eth0", 80, True),
        ("10.1.2.3", "::ffff:10.1.2.3", 80, True),
    ],
)
def test_no_proxy(clean, excluded, host, port, covered):
    clean.setenv("ALL_PROXY", "http://proxy.example:3128")
    clean.setenv("NO_PROXY", excluded)
    assert port_of(host, port) == (None if covered else 3128)


def test_lower_case_names_win_and_an_empty_one_means_none(clean):
    clean.setenv("HTTPS_PROXY", "http://proxy.example:1")
    assert port_of() == 1
    clean.setenv("https_proxy", "http://proxy.example:2")
    assert port_of() == 2
    clean.setenv("https_proxy", "")
    assert port_of() is None
    clean.setenv("all_proxy", "proxy.example:3")
    assert port_of() == 3


def test_a_proxy_header_of_a_cgi_request_is_no_proxy(clean):
    clean.setenv("HTTP_PROXY", "http://proxy.example:1")
    clean.setenv("REQUEST_METHOD", "GET")
    assert port_of(schemes=("http",)) is None
    clean.setenv("http_proxy", "http://proxy.example:2")
    assert port_of(schemes=("http",)) == 2


@pytest.mark.parametrize("url", ["socks5://u:s3cret@h:1", "https://h:1", "http://", "http://h:99999", "http://[::1"])
def test_what_is_no_proxy_is_refused_without_its_password(clean, url):
    clean.setenv("ALL_PROXY", url)
    with pytest.raises(InvalidConfigError, match="ALL_PROXY") as caught:
        port_of()
    assert caught.value.path == "options.trust_env"
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InvalidConfigError) as caught:
        parse_proxy(url, "options.proxy")
    assert caught.value.path == "options.proxy"
