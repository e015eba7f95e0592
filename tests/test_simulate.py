"""Cache simulators against plain Python, traces against the exact count, and the relations between policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from cache_oracles import Access, fewest_misses, plain_lru, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flashc.compiler.verify import random_inputs
from flashc.compiler.workload import load_workload
from flashc.errors import IRError, SimulationError
from flashc.iomodel.closed_form import level_traffic
from flashc.iomodel.segments import FREE, READ, WRITE
from flashc.iomodel.simulate import Cache, belady, explicit, lru
from flashc.iomodel.trace import Trace, trace
from flashc.ir.analysis import SLOW
from flashc.ir.footprint import footprint
from flashc.ir.interp import interpret
from flashc.ir.nodes import Program
from flashc.ops import registry
from flashc.passes.bind import bind

WORD = 4
ATTENTION: dict[str, Any] = {"op": "attention", "batch": 1, "heads": 1, "head_dim": 8, "dtype": "fp32"}
GEMM: dict[str, Any] = {"op": "gemm", "dtype": "fp32"}


def program_and_env(document: Mapping[str, Any], schedule: int = 0, **tiles: int) -> tuple[Program, dict[str, Any]]:
    workload = load_workload(dict(document))
    operator = registry()[workload.op]
    program = operator.schedules(workload.spec)[schedule]
    tables = {n: np.asarray(v) for n, v in operator.tables(workload.spec).items()}
    return program, {**operator.sizes(workload.spec), **tables, **dict.fromkeys(program.tiles, 1), **tiles}


def held(program: Program, env: Mapping[str, Any]) -> int:
    """Footprint in bytes of the largest kernel."""
    known = {**dict(program.fixed), **env}
    return max(footprint(program, k, None).evaluate(known) for k in program.kernels)


def words(capacity: int) -> Cache:
    return Cache(capacity * WORD, WORD)


# -- simulators against oracles


accesses = st.lists(
    st.tuples(st.integers(0, 90), st.integers(1, 24), st.sampled_from([READ, READ, WRITE, WRITE, FREE])),
    min_size=1,
    max_size=60,
)
policy = st.fixed_dictionaries(
    {"write_back": st.booleans(), "write_allocate": st.booleans(), "fetch_on_write": st.booleans()}
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(accesses=accesses, lines=st.integers(1, 8), line=st.sampled_from([4, 8, 12]), policy=policy)
def test_fully_associative_lru(accesses: list[Access], lines: int, line: int, policy: dict[str, bool]) -> None:
    cache = Cache(lines * line, line, **policy)
    assert [vars_of(c) for c in lru(trace_of(accesses), [cache])] == plain_lru(accesses, [cache])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(accesses=accesses, sets=st.integers(1, 5), ways=st.integers(1, 4), policy=policy)
def test_set_associative_lru(accesses: list[Access], sets: int, ways: int, policy: dict[str, bool]) -> None:
    cache = Cache(sets * ways * 8, 8, ways, **policy)
    assert [vars_of(c) for c in lru(trace_of(accesses), [cache])] == plain_lru(accesses, [cache])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(accesses=accesses, first=policy, second=policy, wide=st.sampled_from([4, 8, 16]))
def test_a_chain_of_caches(
    accesses: list[Access], first: dict[str, bool], second: dict[str, bool], wide: int
) -> None:
    chain = [Cache(2 * 8, 8, 1, **first), Cache(4 * wide, wide, 2, **second), Cache(10 * 8, 8, **second)]
    assert [vars_of(c) for c in lru(trace_of(accesses), chain)] == plain_lru(accesses, chain)


def vars_of(counts: Any) -> tuple[int, int, int, int]:
    return counts.hits, counts.misses, counts.loads, counts.stores


@settings(max_examples=300, deadline=None, derandomize=True)
@given(lines=st.lists(st.integers(0, 7), min_size=1, max_size=40), capacity=st.integers(1, 5))
def test_belady_makes_the_fewest_misses(lines: list[int], capacity: int) -> None:
    counts = belady(trace_of([(n * WORD, WORD, READ) for n in lines]), words(capacity))
    assert counts.misses == fewest_misses(lines, capacity)
    assert counts.loads == counts.misses * WORD


@settings(max_examples=300, deadline=None, derandomize=True)
@given(accesses=accesses, capacity=st.integers(1, 12))
def test_belady_never_misses_more_than_lru(accesses: list[Access], capacity: int) -> None:
    cache, made = Cache(capacity * 8, 8), trace_of(accesses)
    best, (found,) = belady(made, cache), lru(made, [cache])
    assert best.misses <= found.misses
    assert best.hits + best.misses == found.hits + found.misses


def test_belady_stores_what_was_written_and_not_given_up() -> None:
    written = [(0, 4, WRITE), (4, 4, WRITE), (8, 4, WRITE)]
    assert belady(trace_of([*written, (0, 8, FREE)]), words(3)).stores == 4
    assert belady(trace_of(written), words(1)).stores == 12
    again = [(0, 4, READ), (0, 4, WRITE), (4, 4, READ), (0, 4, READ)]
    assert vars_of(belady(trace_of(again), words(1))) == (1, 3, 12, 4)


def test_partial_writes_fetch_only_what_was_there_before() -> None:
    line = Cache(8, 8)
    assert lru(trace_of([(0, 4, WRITE), (8, 8, READ), (0, 4, WRITE)]), [line])[0].loads == 16
    assert belady(trace_of([(0, 4, WRITE), (8, 8, READ), (0, 4, WRITE)]), line).loads == 16
    assert lru(trace_of([(0, 8, WRITE)]), [Cache(8, 8, fetch_on_write=True)])[0].loads == 8


def test_bad_geometries_and_policies_are_refused() -> None:
    for size, line, ways in ((0, 8, None), (12, 8, None), (64, 0, None), (64, 8, 3)):
        with pytest.raises(SimulationError):
            Cache(size, line, ways)
    made = trace_of([(0, 4, READ)])
    for cache in (Cache(64, 8, 2), Cache(64, 8, write_back=False), Cache(64, 8, write_allocate=False)):
        with pytest.raises(SimulationError):
            belady(made, cache)
    with pytest.raises(SimulationError):
        lru(made, [])
    with pytest.raises(SimulationError):
        explicit(made)


# -- traces against the exact count


def assert_trace_is_the_count(document: dict[str, Any], tiles: dict[str, int]) -> None:
    workload = load_workload(document)
    operator, spec = registry()[workload.op], workload.spec
    inputs = random_inputs(operator, spec, 0)
    for n, program in enumerate((*operator.schedules(spec), *operator.baselines(spec))):
        env = {**program_and_env(document)[1], **{t: tiles.get(t, 3) for t in program.tiles}, "stages": 1}
        counted = interpret(bind(program, {t: env[t] for t in program.tiles}), inputs, env, operator.params(spec))
        found, walked = explicit(trace(program, env)), level_traffic(program)
        known = {**dict(program.fixed), **env}
        assert found.loads == counted.traffic.load_bytes == walked.bytes(SLOW, "read").evaluate(known), n
        assert found.stores == counted.traffic.store_bytes == walked.bytes(SLOW, "write").evaluate(known), n
        assert found.peak <= held(program, env)


TILES = st.fixed_dictionaries(dict.fromkeys(("Ti", "Tj", "Tk", "Te", "Ri", "Rj", "Re"), st.integers(2, 20)))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    tiles=TILES,
    n=st.integers(1, 24),
    m=st.integers(1, 24),
    causal=st.booleans(),
    window=st.sampled_from([None, [-1, 3], [7, -1], [5, 2]]),
    lengths=st.booleans(),
    extra=st.sampled_from(["", "mask", "bias", "alibi"]),
)
def test_exact_traffic_of_attention(
    tiles: dict[str, int], n: int, m: int, causal: bool, window: Any, lengths: bool, extra: str
) -> None:
    document = {**ATTENTION, "batch": 2, "heads": {"q": 4, "kv": 2}, "seq": {"q": n, "kv": m}, "causal": causal}
    if window:
        document["window"] = window
    if lengths:
        document["kv_lengths"] = [m, m // 2]
    if extra:
        document[extra] = True if extra == "alibi" else {"shape": [2, 1, n, m]}
    assert_trace_is_the_count(document, tiles)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(tiles=TILES, m=st.integers(1, 40), n=st.integers(1, 40), k=st.integers(1, 40), transposed=st.booleans())
def test_exact_traffic_of_gemm(tiles: dict[str, int], m: int, n: int, k: int, transposed: bool) -> None:
    assert_trace_is_the_count({**GEMM, "m": m, "n": n, "k": k, "batch": 2, "transpose_a": transposed}, tiles)


def test_a_score_expression_that_fetches_at_a_computed_index() -> None:
    document = {
        **ATTENTION,
        "seq": {"q": 9, "kv": 12},
        "score": "score + table[where(qpos > j, qpos - j, 0)]",
        "captures": {"table": {"shape": [16], "dtype": "fp32"}},
    }
    assert_trace_is_the_count(document, {"Ti": 4, "Tj": 5})


@pytest.mark.parametrize("schedule", [0, 1, 2])
@pytest.mark.parametrize("stages", [1, 3])
def test_what_a_program_holds_peaks_at_its_footprint(schedule: int, stages: int) -> None:
    document = {**ATTENTION, "seq": 32, "outputs": ["o", "lse"]}
    program, env = program_and_env(document, schedule, Ti=8, Tj=4, Tk=4, Te=4, Ri=8, Rj=4, Re=4)
    if "stages" in program.tiles:
        env["stages"] = stages
    footprint = held(program, env)
    assert explicit(trace(program, env), footprint).peak == footprint
    with pytest.raises(SimulationError, match="the program holds"):
        explicit(trace(program, env), footprint - 1)


def test_tasks_can_be_selected_and_ordered() -> None:
    program, env = program_and_env({**ATTENTION, "seq": 16, "causal": True}, Ti=4, Tj=4)
    first = trace(program, env, select=lambda task: task["i"] == 12).segments
    start = trace(program, env).regions["q"][0]
    assert first.address[first.kind == READ][0] == start + 12 * 8 * WORD
    default = trace(program, env).segments.address
    assert (default == trace(program, env, order=("-i", "b", "h")).segments.address).all()  # the longest task first
    assert (default != trace(program, env, order=("b", "h", "i")).segments.address[: len(default)]).any()
    with pytest.raises(IRError, match="must name each of the axes"):
        trace(program, env, order=("b", "i"))


# -- relations between policies, on our schedules


def cases() -> Iterator[tuple[str, Program, dict[str, Any]]]:
    for features in ({}, {"causal": True}, {"heads": {"q": 2, "kv": 1}}):
        for schedule in range(3):
            document = {**ATTENTION, "seq": {"q": 21, "kv": 18}, **features}
            yield "attention", *program_and_env(document, schedule, Ti=5, Tj=4, Tk=3, Te=3, Ri=6, Rj=5, Re=3)
    for tiles in ({"Ti": 4, "Tj": 4, "Tk": 1}, {"Ti": 7, "Tj": 3, "Tk": 5}):
        yield "gemm", *program_and_env({**GEMM, "m": 19, "n": 22, "k": 17}, **tiles)


@pytest.mark.parametrize("detail", ["tiles", "elements"])
@pytest.mark.parametrize(("name", "program", "env"), list(cases()))
def test_policies_at_the_footprint_and_beyond(name: str, program: Program, env: dict[str, Any], detail: Any) -> None:
    made, exact, fast = trace(program, env, detail=detail), explicit(trace(program, env)), held(program, env)
    sizes = [WORD * n for n in (4, 8)] + [fast, 2 * fast, 16 * fast]
    best = [belady(made, Cache(size, WORD)) for size in sizes]
    found = [lru(made, [Cache(size, WORD)])[0] for size in sizes]
    for b, f in zip(best, found, strict=True):
        assert b.misses <= f.misses
        assert b.hits + b.misses == f.hits + f.misses
    for counts in (best, found):  # more memory never hurts: both policies keep a superset
        misses = [c.misses for c in counts]
        assert misses == sorted(misses, reverse=True)
    if detail == "tiles":  # the program's own moves are one policy for this order
        assert best[2].loads <= exact.loads


@pytest.mark.parametrize(("name", "program", "env"), list(cases()))
def test_lru_is_at_most_twice_the_optimum_of_half_the_size(name: str, program: Program, env: dict[str, Any]) -> None:
    """Sleator & Tarjan 1985: misses of LRU, k lines <= k / (k - h + 1) times those of the optimum, h lines, plus h."""
    made = trace(program, env, detail="tiles")
    for h in (8, 40, held(program, env) // WORD):
        for k in (h, 2 * h, 3 * h):
            limit = k / (k - h + 1) * belady(made, words(h)).misses + h
            assert lru(made, [words(k)])[0].misses <= limit


# -- the LRU trap: a tile that just fits thrashes


def attention_accesses(n: int, d: int, rows: int) -> Iterator[tuple[str, int, int]]:
    """q, k, o, v of the published example, row by row: (tensor, element, kind)."""
    for start in range(0, n, rows):
        for j in range(n):
            for i in range(start, start + rows):
                for x in range(d):
                    yield from (("q", i * d + x, READ), ("k", j * d + x, READ))
                for x in range(d):
                    yield "v", j * d + x, READ
                    if j > 0:
                        yield "o", i * d + x, READ
                    yield "o", i * d + x, WRITE


def test_the_published_order_of_attention_thrashes_at_its_footprint() -> None:
    base = {name: 512 * n * WORD for n, name in enumerate("qkvo")}
    found = trace_of([(base[t] + e * WORD, WORD, k) for t, e, k in attention_accesses(64, 8, 8)])
    assert lru(found, [words(152)])[0].loads == 65152 * WORD  # 2 Br d + 2 Bc d + Br Bc
    assert lru(found, [words(160)])[0].loads == 8704 * WORD  # stationary + 2 x streamed
    assert belady(found, words(152)).loads <= 8704 * WORD


def test_our_attention_streams_a_tile_at_a_time_and_falls_in_the_trap_a_little_later() -> None:
    program, env = program_and_env({**ATTENTION, "seq": 64}, Ti=8, Tj=1)
    assert explicit(trace(program, env)).loads == 8704 * WORD
    found = trace(program, env, detail="elements").only("q", "k", "v", "attention.acc")
    assert lru(found, [words(144)])[0].loads == 72208 * WORD  # all rows of q before any row of o: plain Python agrees
    assert lru(found, [words(152)])[0].loads == lru(found, [words(160)])[0].loads == 8704 * WORD


def test_the_published_matrix_product_thrashes_at_its_footprint() -> None:
    program, env = program_and_env({**GEMM, "m": 48, "n": 48, "k": 48}, Ti=8, Tj=8, Tk=1)
    assert explicit(trace(program, env)).loads == 27648 * WORD
    found = trace(program, env, detail="elements").only("a", "b", "gemm.acc")
    assert lru(found, [words(80)])[0].loads == 134244 * WORD  # a^2 + 2 a with a = 8
    assert lru(found, [words(89)])[0].loads == 27648 * WORD  # a^2 + 3 a + 1


@pytest.mark.parametrize(("rows", "columns"), [(8, 1), (8, 4), (5, 3), (16, 2)])
@pytest.mark.parametrize("detail", ["tiles", "elements"])
def test_lru_moves_what_the_program_does_with_room_for_two_streamed_tiles(rows: int, columns: int, detail: Any) -> None:
    program, env = program_and_env({**ATTENTION, "seq": {"q": 32, "kv": 24}}, Ti=rows, Tj=columns)
    streamed = 2 * columns * 8 * WORD
    rest = (rows * columns + 3 * rows) * WORD  # another score tile and row of statistics
    found = lru(trace(program, env, detail=detail), [Cache(held(program, env) + streamed + rest, WORD)])
    exact = explicit(trace(program, env))
    assert (found[0].loads, found[0].stores) == (exact.loads, exact.stores)


# -- several workers share a cache


def test_workers_that_run_in_step_share_what_they_stream() -> None:
    document = {**GEMM, "m": 32, "n": 32, "k": 32}
    program, env = program_and_env(document, Ti=8, Tj=8, Tk=8)
    one, four = (trace(program, env, workers=n) for n in (1, 4))
    assert explicit(one).loads == explicit(four).loads
    assert sorted(one.segments.address.tolist()) == sorted(four.segments.address.tolist())
    room = Cache(6 * 8 * 8 * WORD, WORD)  # a tile of a, one of b per worker, and one more
    shared, alone = lru(four, [room])[0], lru(one, [room])[0]
    assert shared.loads < alone.loads
    tiles = 32 // 8  # four tasks in a row have the same rows of a, each another column of b
    assert shared.loads == (32 * 32 + 32 * 32 * tiles) * WORD


def test_turns_follow_the_loops_of_tasks_of_different_length() -> None:
    program, env = program_and_env({**ATTENTION, "seq": 16, "causal": True}, Ti=4, Tj=4)
    two = trace(program, env, workers=2).segments
    start, size = trace(program, env).regions["k"]
    keys = two.address[(two.kind == READ) & (two.address >= start) & (two.address < start + size)]
    tiles = ((keys - start) // (4 * 8 * WORD)).tolist()
    assert tiles == [0, 0, 1, 1, 2, 2, 3, 0, 0, 1]  # 4 and 3 steps; the second worker goes on with the task of 2


def test_scratch_of_workers_is_apart() -> None:
    program, env = program_and_env({**GEMM, "m": 16, "n": 8, "k": 8}, Ti=8, Tj=8, Tk=8)
    found = trace(program, env, detail="tiles", workers=2)
    start, size = found.regions["scratch"]
    at = found.segments.address[found.segments.address >= start]
    halves = set(((at - start) // (size // 2)).tolist())
    assert halves == {0, 1}


# -- speed, at reduced size (docs/simulation.md has the figures)


def big_trace(accesses: int) -> Trace:
    side = round((accesses / 2 * 64) ** (1 / 3)) // 64 * 64
    program, env = program_and_env({**GEMM, "m": side, "n": side, "k": side}, Ti=64, Tj=64, Tk=16)
    return trace(program, env)


def test_a_million_accesses_under_each_policy() -> None:
    made = big_trace(1 << 21)
    touched = int(made.segments.bytes[made.segments.kind <= WRITE].sum()) // WORD
    assert touched > 10**6
    for counts in (
        lru(made, [Cache(1 << 16, WORD)])[0],
        lru(made, [Cache(1 << 16, WORD, 16)])[0],
        belady(made, Cache(1 << 16, WORD)),
    ):
        assert counts.hits + counts.misses == touched
