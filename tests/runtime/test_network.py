import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LaunchFailed
from runtime.network import (
    address_towards,
    free_port,
    host_port,
    is_loopback,
    parse_address,
    why_not_bindable,
)


def test_the_way_to_this_machine_starts_at_loopback() -> None:
    assert address_towards("127.0.0.1", 7000) == "127.0.0.1"
    assert is_loopback(address_towards("localhost", 7000))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 100])
def test_a_name_that_leads_nowhere_is_refused_in_words(host: str) -> None:
    with pytest.raises(LaunchFailed, match=f"no way to {host}: ."):
        address_towards(host, 7000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_is_written_as_host_and_port_is_read_as_the_same(host: object, port: int) -> None:
    assert parse_address(host_port(str(host), port)) == (str(host), port)


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    found = parse_address(text)
    assert found is None or (found[0] and 0 < found[1] <= 65535)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_can_be_listened_at_and_an_occupied_one_says_why_not(host: str) -> None:
    port = free_port(host)
    assert why_not_bindable(host, port) is None
    with socket.create_server((host, port)):
        assert "in use" in str(why_not_bindable(host, port))


def test_a_free_port_of_an_ipv6_address_is_found() -> None:
    if why_not_bindable("::1", 0) is not None:
        pytest.skip("no IPv6 here")
    assert 0 < free_port("::1") <= 65535


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
def test_an_address_that_is_not_ours_says_why_not(host: str) -> None:
    assert why_not_bindable(host, 0)
