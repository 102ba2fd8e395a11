from __future__ import annotations

import errno
import socket

import pytest

from goplugins.testing import ManualClock
from goplugins.transports.tcp import AddressOrder, reachable

A, B, C = ((socket.AF_INET, (f"10.0.0.{number}", 80)) for number in (1, 2, 3))
X, Y = ((socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)) for number in (1, 2))


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def order(clock):
    return AddressOrder(clock)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([A], [A]),
        ([A, B, C], [A, B, C]),
        ([X, Y, A, B], [X, A, Y, B]),
        ([A, X, Y], [A, X, Y]),
        ([X, Y, A, B, C], [X, A, Y, B, C]),
    ],
)
def test_families_take_turns_in_the_order_of_the_resolver(order, found, expected):
    assert list(order.sort(found)) == expected


def test_the_family_that_worked_is_first_for_ten_minutes(order, clock):
    order.learn(A, [])
    assert list(order.sort([X, Y, A, B])) == [A, X, B, Y]
    clock.advance(599)
    assert order.sort([X, A])[0] == A
    clock.advance(2)
    assert order.sort([X, A])[0] == X


def test_silent_addresses_are_last_for_ten_minutes(order, clock):
    order.learn(C, [A])
    assert list(order.sort([A, B, C])) == [B, C, A]
    clock.advance(601)
    assert list(order.sort([A, B, C])) == [A, B, C]


def test_an_address_that_works_again_is_no_longer_silent(order):
    order.learn(B, [A])
    order.learn(A, [])
    assert list(order.sort([A, B])) == [A, B]


def test_forgotten_addresses_are_not_kept(order, clock):
    for number in range(100):
        order.learn(B, [(socket.AF_INET, (f"10.1.0.{number}", 80))])
        clock.advance(60)
    assert len(order._silent) <= 11


def test_a_known_family_that_the_name_lost_changes_nothing(order):
    order.learn(X, [])
    assert list(order.sort([A, B])) == [A, B]


def test_reachable_leaves_out_a_family_without_a_route(monkeypatch):
    real = socket.socket

    class NoIPv6(socket.socket):
        def __init__(self, family=-1, *args, **keywords):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **keywords)

    here = socket.AF_INET, ("127.0.0.1", 80)
    monkeypatch.setattr(socket, "socket", NoIPv6)
    assert reachable([X, here, Y]) == [here]
    assert reachable([X, Y]) == [X, Y]
    monkeypatch.setattr(socket, "socket", real)
    assert reachable([here]) == [here]
    assert reachable([]) == []
