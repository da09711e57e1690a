import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduling.blocks import BlockPool


def is_contiguous(table: list[int]) -> bool:
    return table == list(range(table[0], table[0] + len(table)))


class BlockPoolMachine(RuleBasedStateMachine):
    """Compares a pool with the plain set of the blocks that are not in any table."""

    tables: list[list[int]]
    pool: BlockPool

    @initialize(num_blocks=st.integers(1, 40))
    def make(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks, block_tokens=4)
        self.tables = []

    @rule(count=st.integers(1, 12), headroom=st.integers(0, 20))
    def allocate(self, count: int, headroom: int) -> None:
        longest, num_free = self.longest_free_run(), self.pool.num_free
        table = self.pool.allocate(count, headroom=headroom)
        assert len(table) == (count if count <= num_free else 0)
        if table:
            assert is_contiguous(table) or count > longest
            self.tables.append(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), count=st.integers(0, 12), headroom=st.integers(0, 20))
    def extend(self, data: st.DataObject, count: int, headroom: int) -> None:
        table = data.draw(st.sampled_from(self.tables))
        before, free = list(table), self.free_blocks()
        in_place = 0
        while in_place < count and before[-1] + in_place + 1 in free:
            in_place += 1
        assert self.pool.extend(table, count, headroom=headroom) == (count <= len(free))
        added = table[len(before) :]
        assert table[: len(before)] == before
        assert len(added) == (count if count <= len(free) else 0)
        if added:
            assert added[:in_place] == [before[-1] + 1 + index for index in range(in_place)]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.free(self.tables.pop(index))

    @invariant()
    def no_block_is_lost_or_shared(self) -> None:
        self.pool.check_integrity()
        held = [block for table in self.tables for block in table]
        assert len(held) == len(set(held))
        assert self.pool.num_free == self.pool.num_blocks - len(held)

    def free_blocks(self) -> set[int]:
        held = {block for table in self.tables for block in table}
        return set(range(self.pool.num_blocks)) - held

    def longest_free_run(self) -> int:
        longest = length = 0
        free = self.free_blocks()
        for block in range(self.pool.num_blocks):
            length = length + 1 if block in free else 0
            longest = max(longest, length)
        return longest


BlockPoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestBlockPoolMachine = BlockPoolMachine.TestCase


def test_sequences_with_headroom_grow_in_place_beside_one_another() -> None:
    pool = BlockPool(64, block_tokens=16)
    tables = [pool.allocate(2, headroom=6) for _ in range(8)]
    for _ in range(6):
        for table in tables:
            assert pool.extend(table, 1)
    assert all(is_contiguous(table) for table in tables)
    assert pool.num_free == 0


def test_without_room_behind_a_table_it_grows_elsewhere() -> None:
    pool = BlockPool(4, block_tokens=16)
    first, second = pool.allocate(1), pool.allocate(1)
    assert pool.extend(first, 2)
    assert (first, second) == ([0, 2, 3], [1])


def test_a_scattered_pool_serves_a_table_in_pieces() -> None:
    pool = BlockPool(5, block_tokens=16)
    singles = [pool.allocate(1) for _ in range(5)]
    for block in (0, 2, 4):
        pool.free(singles[block])
    assert sorted(pool.allocate(3)) == [0, 2, 4]


def test_too_few_free_blocks_leave_the_table_as_it_was() -> None:
    pool = BlockPool(4, block_tokens=16)
    table = pool.allocate(3)
    assert pool.allocate(2) == []
    assert not pool.extend(table, 2)
    assert (table, pool.num_free) == ([0, 1, 2], 1)


def test_freed_neighbours_become_one_run() -> None:
    pool = BlockPool(9, block_tokens=16)
    tables = [pool.allocate(3) for _ in range(3)]
    for index in (0, 2, 1):
        pool.free(tables[index])
    assert pool.allocate(9) == list(range(9))


@pytest.mark.parametrize("table", [[0], [3], [-1], [4], [2, 2]])
def test_freeing_what_is_not_taken_is_refused(table: list[int]) -> None:
    pool = BlockPool(4, block_tokens=16)
    pool.free(pool.allocate(3)[:1])
    with pytest.raises(ValueError, match="not all taken"):
        pool.free(table)


@pytest.mark.parametrize(("num_blocks", "block_tokens"), [(0, 16), (4, 0)])
def test_a_pool_without_room_is_refused(num_blocks: int, block_tokens: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        BlockPool(num_blocks, block_tokens)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("_lengths", {0: 3}, "free runs are"),
        ("_num_free", 3, "free runs are"),
        ("_starts", {3: 0}, "ends of free runs"),
        ("_longest", [], "no search finds"),
    ],
)
def test_the_integrity_check_notices_accounts_that_differ(
    name: str, value: object, message: str
) -> None:
    pool = BlockPool(4, block_tokens=16)
    setattr(pool, name, value)
    with pytest.raises(RuntimeError, match=message):
        pool.check_integrity()


def test_many_changes_keep_the_search_for_runs_small() -> None:
    pool = BlockPool(100_000, block_tokens=16)
    tables = [pool.allocate(10, headroom=4) for _ in range(1000)]
    for _ in range(20):
        for table in tables:
            pool.extend(table, 1)
            pool.free([table.pop()])
    assert len(pool._longest) <= 4 * len(pool._lengths) + 65
    pool.check_integrity()
