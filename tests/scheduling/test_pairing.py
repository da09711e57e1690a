"""Where a request begins and who goes on with it, by phases, room, load and routes."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling.pairing import MAX_TAKERS, Candidate, Pairing, RoutingPolicy, Way, pair
from scheduling.placement import PHASES, Phase
from scheduling.routing import PipelineLoad


def up(
    name: str,
    phase: Phase,
    *,
    running: int = 0,
    queued: int = 0,
    free: int | None = None,
    has_room: bool = True,
) -> Candidate:
    load = PipelineLoad(
        pipeline=name, num_queued_tokens=queued, num_running=running, num_free_tokens=free
    )
    return Candidate(load=load, phase=phase, has_room=has_room)


P, D, B = up("p", "prefill"), up("d", "decode"), up("b", "both")


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([P, D], Pairing(pipeline="p", takers=("d",))),
        ([B], Pairing(pipeline="b")),
        ([P, B], Pairing(pipeline="b")),  # both are idle: the lesser id
        ([P, up("b", "both", running=9)], Pairing(pipeline="p", takers=("b",))),
        ([D], Pairing(pipeline="d")),
        ([P], Pairing(pipeline="p")),
        ([B, D], Pairing(pipeline="b")),
        ([], None),
    ],
)
def test_phases_say_who_begins_and_who_goes_on(
    candidates: list[Candidate], expected: Pairing | None
) -> None:
    assert pair(candidates, num_prompt_tokens=10) == expected


def test_where_no_decode_pipeline_has_room_one_that_serves_both_is_taken_before_prefill() -> None:
    full = up("d", "decode", has_room=False)
    busy = up("z", "both", running=50)
    assert pair([P, full, busy], num_prompt_tokens=10) == Pairing(pipeline="z")
    assert pair([P, full], num_prompt_tokens=10) == Pairing(pipeline="p")
    short = up("d", "decode", free=10)
    assert pair([P, short], num_prompt_tokens=10) == Pairing(pipeline="p")
    assert pair([P, short], num_prompt_tokens=9) == Pairing(pipeline="p", takers=("d",))


def test_decode_pipelines_take_no_whole_request_while_another_is_up_but_full() -> None:
    assert pair([up("p", "prefill", has_room=False), D], num_prompt_tokens=10) is None


def test_a_request_of_one_token_is_not_handed_off_and_needs_no_taker() -> None:
    full = up("d", "decode", has_room=False)
    expected = Pairing(pipeline="p")
    assert pair([P, D], num_prompt_tokens=10, has_decode=False) == expected
    assert pair([P, full], num_prompt_tokens=10, has_decode=False) == expected


def test_the_least_busy_for_its_share_comes_first() -> None:
    decodes = [up("d", "decode", running=3), up("e", "decode", running=5)]
    assert pair([P, *decodes], num_prompt_tokens=1) == Pairing(pipeline="p", takers=("d", "e"))
    ways = [Way(prefill="p", decode="d", weight=1.0), Way(prefill="p", decode="e", weight=3.0)]
    found = pair([P, *decodes], ways, num_prompt_tokens=1)
    assert found == Pairing(pipeline="p", takers=("e", "d"))


def test_who_has_no_route_comes_last_and_rates_count_only_if_all_are_known() -> None:
    decodes = [up("d", "decode"), up("e", "decode", running=1)]
    routed = [Way(prefill="p", decode="e", weight=0.1)]
    assert pair([P, *decodes], routed, num_prompt_tokens=1) == Pairing(
        pipeline="p", takers=("e", "d")
    )
    one = [Way(prefill="p", decode="e", bytes_per_s=1e9)]
    both = [*one, Way(prefill="p", decode="d", bytes_per_s=1e8)]
    assert pair([P, *decodes], one, num_prompt_tokens=1) == Pairing(pipeline="p", takers=("d", "e"))
    assert pair([P, *decodes], both, num_prompt_tokens=1) == Pairing(
        pipeline="p", takers=("e", "d")
    )


def test_requests_are_shared_out_by_the_weights_of_their_routes() -> None:
    ways = [Way(prefill="p", decode="d", weight=1.0), Way(prefill="p", decode="e", weight=3.0)]
    sent: Counter[str] = Counter()
    for _ in range(40):
        decodes = [up(name, "decode", running=sent[name]) for name in "de"]
        found = pair([P, *decodes], ways, num_prompt_tokens=1)
        assert found is not None
        sent[found.takers[0]] += 1
    assert sent == {"d": 10, "e": 30}


def test_another_policy_picks_the_first_to_go_on_of_all_and_the_rest_stay_in_order() -> None:
    names = "cdefgh"
    decodes = [up(name, "decode", running=n) for n, name in enumerate(names)]
    asked: list[list[str]] = []

    def last(loads: Sequence[PipelineLoad], **_: object) -> str:
        asked.append([load.pipeline for load in loads])
        return loads[-1].pipeline

    found = pair([P, *decodes], num_prompt_tokens=1, policy=RoutingPolicy(go_on=last))
    assert found == Pairing(pipeline="p", takers=("h", "c", "d", "e"))
    assert asked == [list(names)]
    assert pair([B], num_prompt_tokens=1, policy=RoutingPolicy(go_on=last)) == Pairing(pipeline="b")
    assert len(asked) == 1


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True))
    return [
        up(
            name,
            draw(st.sampled_from(PHASES)),
            running=draw(st.integers(0, 9)),
            free=draw(st.none() | st.integers(0, 40)),
            has_room=draw(st.booleans()),
        )
        for name in names
    ]


@given(candidates(), st.integers(1, 40), st.booleans())
def test_a_pairing_is_always_one_that_can_be(
    found: list[Candidate], num_prompt_tokens: int, has_decode: bool
) -> None:
    by_name = {c.load.pipeline: c for c in found}
    chosen = pair(found, num_prompt_tokens=num_prompt_tokens, has_decode=has_decode)
    able = [c for c in found if c.has_room]
    beginners = [c for c in able if c.phase != "decode"]
    if all(c.phase == "decode" for c in found):
        beginners = able
    assert (chosen is None) == (not beginners)
    if chosen is None:
        return
    assert by_name[chosen.pipeline] in beginners
    assert len(chosen.takers) <= MAX_TAKERS
    for name in chosen.takers:
        assert has_decode
        assert by_name[chosen.pipeline].phase == "prefill"
        assert by_name[name].phase != "prefill"
        assert by_name[name].has_room
