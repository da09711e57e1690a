"""Shared blocks against a plain model of who holds which beginning."""

from dataclasses import dataclass, field

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduling.blocks import BlockPool
from scheduling.prefixes import extend_digests
from scheduling.shared_blocks import SharedBlocks

SIZE = 2


def digests_of(tokens: list[int]) -> list[bytes]:
    digests: list[bytes] = []
    extend_digests(digests, tokens, SIZE, len(tokens) // SIZE)
    return digests


@dataclass
class Holder:
    """A sequence: its tokens, its blocks and how many of these are said to be computed."""

    tokens: list[int]
    table: list[int]
    num_registered: int
    digests: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.digests = digests_of(self.tokens)


class SharedBlocksMachine(RuleBasedStateMachine):
    """`written` is what a device would have in each block: the tokens up to its end."""

    @initialize(num_blocks=st.integers(2, 16))
    def make(self, num_blocks: int) -> None:
        self.blocks = SharedBlocks(BlockPool(num_blocks, SIZE))
        self.holders: list[Holder] = []
        self.written: dict[int, tuple[int, ...]] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=16))
    def come(self, tokens: list[int]) -> None:
        """A sequence shares what it can of its beginning and writes the rest."""
        count = -(-len(tokens) // SIZE)
        found = self.blocks.find(digests_of(tokens))
        self.check_found(tokens, found)
        if count - self.blocks.num_held(found) > self.blocks.num_free:
            return
        kept_before, num_free = list(self.blocks._kept), self.blocks._pool.num_free
        table = self.blocks.share(digests_of(tokens))
        assert table == found
        assert self.blocks.extend(table, count - len(found))
        kept_then = [block for block in kept_before if block not in found]
        self.check_evicted(kept_then, table[len(found) :], num_free)
        if found:
            event("a beginning was found")
        for block in table[len(found) :]:
            self.written.pop(block, None)
        self.holders.append(Holder(tokens, table, len(found)))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.compute_upto(
            holder, data.draw(st.integers(holder.num_registered, len(holder.digests)))
        )

    def compute_upto(self, holder: Holder, upto: int) -> None:
        first, holder.num_registered = holder.num_registered, upto
        for place in range(first, upto):
            self.written[holder.table[place]] = tuple(holder.tokens[: (place + 1) * SIZE])
        self.blocks.register(holder.table[first:upto], holder.digests[first:upto])

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        holder = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.blocks.free(holder.table)

    @rule(many=st.lists(st.lists(st.integers(0, 1), min_size=SIZE, max_size=8), max_size=6))
    def serve(self, many: list[list[int]]) -> None:
        """Sequences come one after the other, are computed, and go."""
        for tokens in many:
            num_before = len(self.holders)
            self.come(tokens)
            if len(self.holders) > num_before:
                self.compute_upto(self.holders[-1], len(self.holders[-1].digests))
                self.blocks.free(self.holders.pop().table)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """Whoever holds blocks claims the very same of another pool of the same size."""
        moved = SharedBlocks(BlockPool(self.blocks.num_blocks, SIZE))
        for holder in data.draw(st.permutations(self.holders)):
            moved.claim(holder.table, holder.digests[: holder.num_registered])
        self.blocks = moved

    @rule()
    def forget(self) -> None:
        self.blocks.forget()
        assert self.blocks.num_kept == 0
        for holder in self.holders:
            upto = holder.num_registered
            self.blocks.register(holder.table[:upto], holder.digests[:upto])

    @invariant()
    def accounts_agree(self) -> None:
        self.blocks.check_integrity([holder.table for holder in self.holders])
        held = {block for holder in self.holders for block in holder.table}
        assert self.blocks.num_free == self.blocks.num_blocks - len(held)

    @invariant()
    def what_is_found_is_what_was_written_and_whoever_computed_finds_it(self) -> None:
        for holder in self.holders:
            found = self.blocks.find(holder.digests)
            self.check_found(holder.tokens, found)
            assert len(found) >= holder.num_registered
            for place in range(holder.num_registered):
                block = holder.table[place]
                assert self.written[block] == tuple(holder.tokens[: (place + 1) * SIZE])

    @invariant()
    def no_kept_block_is_older_than_one_that_follows_it(self) -> None:
        """So that the end of a beginning goes before the beginning of it."""
        places = {self.written[block]: place for place, block in enumerate(self.blocks._kept)}
        for tokens, place in places.items():
            assert places.get(tokens[:-SIZE], len(places)) > place

    def check_found(self, tokens: list[int], found: list[int]) -> None:
        for place, block in enumerate(found):
            assert self.written[block] == tuple(tokens[: (place + 1) * SIZE])

    def check_evicted(self, kept_before: list[int], taken: list[int], num_free: int) -> None:
        """Hardly anything is let go of without need, and always the longest unused."""
        kept = list(self.blocks._kept)
        num_evicted = len(kept_before) - len(kept)
        assert kept == kept_before[num_evicted:]
        num_needed = max(0, len(taken) - num_free)
        assert num_needed <= num_evicted <= num_needed + self.blocks.num_blocks // 16
        if num_evicted:
            event("kept blocks were let go of")
        assert not set(taken) & set(kept)


SharedBlocksMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestSharedBlocksMachine = SharedBlocksMachine.TestCase


def kept_chain(blocks: SharedBlocks, tokens: list[int]) -> list[int]:
    """A sequence came, was computed and went: what it held."""
    digests = digests_of(tokens)
    table = blocks.share(digests)
    blocks.extend(table, -(-len(tokens) // SIZE) - len(table))
    blocks.register(table[: len(digests)], digests)
    blocks.free(table)
    return table


def test_the_longest_unused_goes_first_and_the_end_of_it_before_its_beginning() -> None:
    blocks = SharedBlocks(BlockPool(6, SIZE))
    kept_chain(blocks, [1, 1, 1, 1])
    kept_chain(blocks, [2, 2, 2, 2])
    kept_chain(blocks, [1, 1, 3, 3])  # so that [1, 1] was used after [2, 2]
    assert (blocks.num_free, blocks.num_kept) == (6, 5)
    lengths = []
    for _ in range(6):
        assert blocks.extend([], 1)
        lengths.append(
            [len(blocks.find(digests_of([n, n, m, m]))) for n, m in ((1, 1), (2, 2), (1, 3))]
        )
    assert lengths == [[2, 2, 2], [1, 2, 2], [1, 1, 2], [1, 0, 2], [1, 0, 1], [0, 0, 0]]


def test_more_than_is_needed_is_let_go_of_for_a_table_in_one_run_that_can_grow() -> None:
    blocks = SharedBlocks(BlockPool(64, SIZE))
    for number in range(21):
        kept_chain(blocks, [number] * 3 * SIZE)
    assert (blocks.num_free, blocks.num_kept) == (64, 63)
    table = blocks.allocate(3, headroom=2)
    assert blocks.num_kept == 63 - 2 - 64 // 16
    assert blocks.extend(table, 2)
    assert table == list(range(table[0], table[0] + 5))


def test_a_block_that_somebody_holds_is_never_handed_out() -> None:
    blocks = SharedBlocks(BlockPool(3, SIZE))
    kept_chain(blocks, [1, 1, 1, 1])
    table = blocks.share(digests_of([1, 1, 5]))
    assert len(table) == 1
    assert blocks.allocate(3) == []
    assert not set(blocks.allocate(2)) & set(table)
    assert blocks.find(digests_of([1, 1])) == table


def test_a_beginning_that_two_computed_apart_is_kept_once_and_as_long_as_the_later_one() -> None:
    blocks = SharedBlocks(BlockPool(8, SIZE))
    one, other = blocks.allocate(1), blocks.allocate(2)
    digests = digests_of([1, 1, 2, 2])
    blocks.register(one, digests[:1])
    blocks.register(other, digests)
    blocks.free(one)
    assert blocks.num_kept == 1
    blocks.free(other)
    assert (blocks.num_kept, blocks.num_free) == (2, 8)
    assert blocks.find(digests) == [one[0], other[1]]
    blocks.allocate(7)
    assert blocks.find(digests) == one, "what was used together goes from its end"


def test_a_beginning_whose_kept_block_was_let_go_of_is_found_at_who_computed_it_as_well() -> None:
    blocks = SharedBlocks(BlockPool(3, SIZE))
    one, other = blocks.allocate(1), blocks.allocate(1)
    digests = digests_of([1, 1])
    blocks.register(one, digests)
    blocks.register(other, digests)
    blocks.free(one)
    last = blocks.allocate(2)
    assert blocks.find(digests) == other
    blocks.free(other)
    assert blocks.find(digests) == other
    blocks.check_integrity([last])


def test_where_sharing_is_off_nothing_is_kept_or_found() -> None:
    blocks = SharedBlocks(BlockPool(4, SIZE), shares=False)
    kept_chain(blocks, [1, 1, 1, 1])
    assert (blocks.num_kept, blocks.find(digests_of([1, 1]))) == (0, [])
    blocks.check_integrity([])


def test_a_held_block_is_claimed_only_by_who_has_the_same_in_it() -> None:
    blocks = SharedBlocks(BlockPool(8, SIZE), shares=False)
    digests = digests_of([1, 1, 2, 2])
    blocks.claim([3, 4], digests)
    blocks.claim([3, 5], digests[:1])
    for known in ([], digests_of([9, 9])):
        with pytest.raises(ValueError, match="block 3 is held, and with something else in it"):
            blocks.claim([3, 6], known)
    with pytest.raises(ValueError, match="block 5 is held"):
        blocks.claim([3, 5], digests[:1])
    blocks.check_integrity([[3, 4], [3, 5]])


@pytest.mark.parametrize("table", [[0, 0], [3], [9]])
def test_nothing_is_let_go_of_where_a_table_is_wrong(table: list[int]) -> None:
    blocks = SharedBlocks(BlockPool(4, SIZE))
    held = blocks.allocate(2)
    with pytest.raises(ValueError, match="are not all held ones of this pool"):
        blocks.free(table)
    blocks.check_integrity([held])


def test_what_was_not_computed_here_is_forgotten_with_its_block() -> None:
    blocks = SharedBlocks(BlockPool(4, SIZE))
    table = blocks.allocate(2)
    blocks.unlogged.update(table)
    blocks.register(table[:1], digests_of([1, 1]))
    blocks.free(table)
    assert blocks.unlogged == {table[0]}, "it may still be found"
    blocks.allocate(4)
    assert blocks.unlogged == set()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("_holders", {0: 2, 1: 1}, "so many holders"),
        ("_index", {}, "no beginning finds"),
        ("_index", {b"x": [2]}, "by another name"),
        ("unlogged", {3}, "remembered of free blocks"),
        ("_kept", {0: None}, "kept blocks are held"),
        ("_kept", {}, "taken, 2 held and 0 kept"),
    ],
)
def test_the_integrity_check_notices_accounts_that_differ(
    name: str, value: object, message: str
) -> None:
    blocks = SharedBlocks(BlockPool(4, SIZE))
    held = blocks.allocate(2)
    table = blocks.allocate(1)
    blocks.register(table, digests_of([1, 1]))
    blocks.free(table)
    blocks.check_integrity([held])
    setattr(blocks, name, value)
    with pytest.raises(RuntimeError, match=message):
        blocks.check_integrity([held])
