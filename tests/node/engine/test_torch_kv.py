"""KV slots of the torch backend, on mapped pages and on plain device tensors."""

import mmap

import pytest

from tests.node.engine.torch_cases import torch

# after torch_cases, which skips this module where torch is not installed
from node.engine.torch_backend.kv import SLOT_ROWS_MIN, KVStore  # isort: skip
from node.engine.torch_backend.pages import can_map, is_out_of_memory  # isort: skip

LAYERS, KV_HEADS, KEY_DIM, VALUE_DIM = 3, 2, 64, 16
ROW_BYTES = LAYERS * KV_HEADS * (KEY_DIM + VALUE_DIM) * 2
IS_MAPPED = can_map(torch.device("cpu"))
needs_pages = pytest.mark.skipif(not IS_MAPPED, reason="pages are given back on Linux alone")


def store_of(*, is_mapped=None, **fields):
    shape = {"layers": LAYERS, "kv_heads": KV_HEADS, "key_dim": KEY_DIM, "value_dim": VALUE_DIM}
    defaults = {"dtype": torch.bfloat16, "kv_tokens": 8192}
    return KVStore(**{**shape, **defaults, **fields}, is_mapped=is_mapped)


@pytest.fixture(params=[pytest.param(True, marks=needs_pages), False], ids=["mapped", "device"])
def store(request):
    return store_of(is_mapped=request.param)


def fill(sequence, length, seed=0):
    """Write rows of random numbers, as steps would; gives them back."""
    random = torch.Generator().manual_seed(seed)
    sequence.length = length
    for tensor in (sequence.slab.keys, sequence.slab.values):
        rows = torch.randn(LAYERS, KV_HEADS, length, tensor.shape[-1], generator=random)
        tensor[:, sequence.slot, :, :length] = rows
    return rows_of(sequence, length)


def rows_of(sequence, end, start=0):
    return [
        tensor[:, sequence.slot, :, start:end].clone()
        for tensor in (sequence.slab.keys, sequence.slab.values)
    ]


def are_zero(sequence, start=0):
    return not any(rows.any() for rows in rows_of(sequence, None, start))


def same(found, expected):
    return all(map(torch.equal, found, expected))


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


class TestSlots:
    def test_bytes_per_token(self, store):
        assert store.bytes_per_token == ROW_BYTES

    @pytest.mark.parametrize("capacity", [1, 64, 65, 100, 1000, 4097, 8192])
    def test_a_slot_has_rows_for_the_whole_capacity(self, store, capacity):
        slab = store.open(capacity).slab
        assert slab.keys.shape == (LAYERS, slab.slots, KV_HEADS, slab.slot_rows, KEY_DIM)
        assert slab.values.shape == (LAYERS, slab.slots, KV_HEADS, slab.slot_rows, VALUE_DIM)
        assert slab.slot_rows >= max(capacity, SLOT_ROWS_MIN)

    def test_freed_slots_are_taken_again_lowest_first_and_read_zero(self, store):
        sequences = [store.open(10) for _ in range(4)]
        assert [sequence.slot for sequence in sequences] == [0, 1, 2, 3]
        for sequence in sequences:
            fill(sequence, 64)
        store.close(sequences[2])
        store.close(sequences[1])
        again = [store.open(10) for _ in range(3)]
        assert [sequence.slot for sequence in again] == [1, 2, 4]
        assert all(map(are_zero, again))

    @pytest.mark.parametrize("length", [0, 1, 32, 33, 63, 64, 200])
    def test_forgetting_keeps_what_is_before_and_the_neighbours(self, store, length):
        sequences = [store.open(200) for _ in range(3)]
        kept = [fill(sequence, 200, seed) for seed, sequence in enumerate(sequences)]
        store.forget(sequences[1], length)
        assert sequences[1].length == length
        assert same(rows_of(sequences[1], length), [rows[:, :, :length] for rows in kept[1]])
        assert are_zero(sequences[1], length)
        for index in (0, 2):
            assert same(rows_of(sequences[index], 200), kept[index])

    @pytest.mark.parametrize("capacity", [300, 257, 90])
    def test_a_copy_begins_with_the_rows_and_leaves_them(self, store, capacity):
        source = store.open(300)
        rows = fill(source, 300)
        made = store.copy(source, capacity, 70)
        assert made.length == 70
        assert same(rows_of(made, 70), [part[:, :, :70] for part in rows])
        assert are_zero(made, 70)
        fill(made, 80, seed=9)
        assert same(rows_of(source, 300), rows)

    @pytest.mark.parametrize("capacity", [300, 2000, 90])
    def test_a_slot_taken_over_is_used_on_or_moved_and_free_again(self, store, capacity):
        source = store.open(300)
        rows = fill(source, 300)
        slab, slot = source.slab, source.slot
        other = store.open(300)
        made = store.take_over(source, capacity, 70)
        assert made.length == 70
        assert same(rows_of(made, 70), [part[:, :, :70] for part in rows])
        assert are_zero(made, 70)
        if capacity == 300:
            assert (made.slab, made.slot) == (slab, slot)
        else:
            again = store.open(300)
            assert (again.slab, again.slot) == (slab, slot)
            assert are_zero(again)
        assert are_zero(other)


@needs_pages
class TestMapped:
    def test_many_sequences_of_one_class_share_a_slab(self):
        store = store_of(kv_tokens=64 * 1024)
        sequences = [store.open(1000) for _ in range(64)]
        assert len({id(sequence.slab) for sequence in sequences}) == 1
        assert [sequence.slot for sequence in sequences] == list(range(64))

    def test_memory_is_what_was_written_and_goes_back(self):
        store = store_of(layers=8, kv_heads=8, key_dim=64, value_dim=64, kv_tokens=32 * 1024)
        # 1 KB a layer and row: 8 MB each, of slots that have addresses for 16 MB
        row_bytes, count, rows = store.bytes_per_token, 8, 500
        before = resident_bytes()
        sequences = [store.open(1024) for _ in range(count)]
        assert resident_bytes() - before < 2**20
        for sequence in sequences:
            for tensor in (sequence.slab.keys, sequence.slab.values):
                tensor[:, sequence.slot, :, :rows] = 1.0
            sequence.length = rows
        written = count * rows * row_bytes
        taken = resident_bytes() - before
        assert 0.98 * written < taken < 1.1 * written
        for sequence in sequences:
            store.forget(sequence, 64)
        assert resident_bytes() - before < 1.1 * count * 64 * row_bytes + 2**20
        for sequence in sequences:
            store.close(sequence)
        assert resident_bytes() - before < 2**20

    def test_a_slab_has_fewer_slots_where_addresses_are_short(self):
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * mmap.PAGESIZE
        store = store_of(kv_tokens=2**20)
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, limits[1]))
        try:
            sequence = store.open(2**17)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert 1 <= sequence.slab.slots < 16


class TestDevice:
    def test_slabs_round_up_by_a_quarter_at_most_and_share_the_budget(self):
        store = store_of(is_mapped=False, kv_tokens=8192)
        for capacity in (65, 100, 129, 300, 1000, 1025, 5000):
            rows = store.open(capacity).slab.slot_rows
            assert capacity <= rows <= max(SLOT_ROWS_MIN, 1.25 * capacity)

    def test_sequences_share_a_slab_while_the_budget_has_room_for_free_slots(self):
        store = store_of(is_mapped=False, kv_tokens=8192)
        sequences = [store.open(512) for _ in range(16)]
        slabs = {id(sequence.slab): sequence.slab for sequence in sequences}.values()
        assert sorted(slab.slots for slab in slabs) == [4, 4, 4, 4]
        for sequence in sequences:
            store.close(sequence)
        assert store.open(2048).slab.slots == 1


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
