"""How KV of a hand-off travels: what is asked for, or what is fastest within the error allowed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.kv_encoding import GROUP as CODEC_GROUP
from models.kv_encoding import BlockShape, encoded_bytes
from scheduling.kv_transport import (
    AUTO_MIN_GAIN,
    ERRORS,
    GROUP,
    Encoding,
    KvHop,
    KvLayout,
    choose_encoding,
    transfer_s_per_byte,
    wire_ratio,
)

LAYOUT = KvLayout(block_tokens=16, head_dim=128, itemsize=2)
LAYOUTS = st.builds(
    KvLayout,
    block_tokens=st.integers(1, 128),
    head_dim=st.integers(1, 256),
    itemsize=st.sampled_from([2, 4]),
)
RATES = st.floats(1e6, 1e13)
HOPS = st.lists(
    st.builds(KvHop, link_bytes_per_s=RATES, sender_bytes_per_s=RATES, receiver_bytes_per_s=RATES),
    max_size=4,
)
ENCODINGS: list[Encoding] = list(ERRORS)


def hop(link: float, *, sender: float = 1e12, receiver: float = 1e12) -> KvHop:
    return KvHop(link_bytes_per_s=link, sender_bytes_per_s=sender, receiver_bytes_per_s=receiver)


@given(LAYOUTS, st.integers(1, 16), st.sampled_from(ENCODINGS))
def test_the_ratio_is_that_of_the_bytes_that_the_codec_makes(
    layout: KvLayout, num_heads: int, encoding: Encoding
) -> None:
    shape = BlockShape(
        num_heads=num_heads,
        block_tokens=layout.block_tokens,
        head_dim=layout.head_dim,
        itemsize=layout.itemsize,
    )
    exact = encoded_bytes(3, shape, encoding) / encoded_bytes(3, shape, "none")
    assert wire_ratio(encoding, layout) == pytest.approx(exact)
    assert GROUP == CODEC_GROUP


@given(LAYOUTS, HOPS, st.sampled_from(ENCODINGS))
def test_what_is_asked_for_by_name_is_done(
    layout: KvLayout, hops: list[KvHop], setting: Encoding
) -> None:
    assert choose_encoding(setting, layout, hops) == setting


@given(LAYOUTS, HOPS, st.floats(0, 0.1))
def test_auto_keeps_to_the_error_and_is_worth_it(
    layout: KvLayout, hops: list[KvHop], max_error: float
) -> None:
    chosen = choose_encoding("auto", layout, hops, max_error=max_error)
    assert ERRORS[chosen] <= max_error
    if chosen == "none":
        return
    times = {name: transfer_s_per_byte(name, layout, hops) for name in ENCODINGS}
    assert times[chosen] <= (1 - AUTO_MIN_GAIN) * times["none"]
    assert all(times[chosen] <= times[n] for n in ENCODINGS if ERRORS[n] <= max_error)


def test_auto_never_takes_4_bits_unless_that_error_is_allowed() -> None:
    assert choose_encoding("auto", LAYOUT, [hop(1e8)]) == "int8"
    assert choose_encoding("auto", LAYOUT, [hop(1e8)], max_error=0.05) == "int4"


def test_the_slowest_of_several_ways_decides() -> None:
    fast, slow = hop(1e12), hop(1e8)
    assert choose_encoding("auto", LAYOUT, [fast]) == "none"
    assert choose_encoding("auto", LAYOUT, [fast, slow]) == "int8"


def test_a_device_that_encodes_slower_than_the_link_carries_sends_as_it_is() -> None:
    assert choose_encoding("auto", LAYOUT, [hop(1e9, sender=1e9)]) == "none"
    assert choose_encoding("auto", LAYOUT, [hop(1e9, receiver=1e9)]) == "none"


def test_nothing_is_encoded_where_nothing_goes() -> None:
    assert choose_encoding("auto", LAYOUT, []) == "none"


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    unknown: Any = "int2"
    with pytest.raises(ValueError, match=r"expected one of auto, none, int8, int4, got 'int2'"):
        choose_encoding(unknown, LAYOUT, [])


@pytest.mark.parametrize("name", ["link_bytes_per_s", "sender_bytes_per_s", "receiver_bytes_per_s"])
@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused_by_name(name: str, rate: float) -> None:
    rates = {"link_bytes_per_s": 1.0, "sender_bytes_per_s": 1.0, "receiver_bytes_per_s": 1.0}
    with pytest.raises(ValueError, match=name):
        KvHop(**(rates | {name: rate}))


@pytest.mark.parametrize("name", ["block_tokens", "head_dim", "itemsize"])
def test_a_layout_without_values_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        KvLayout(**({"block_tokens": 16, "head_dim": 64, "itemsize": 2} | {name: 0}))
