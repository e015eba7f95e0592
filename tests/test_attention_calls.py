"""Calls of flashc.attention: what is refused, what compiles anew, threads, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from attention_reference import DTYPES, Array, attend, normal, small

import flashc
from flashc.backends.cpu.run import allowed_cores, threads
from flashc.errors import ArgumentError, DeviceAbsentError, WorkloadError

# -- repeating


def test_a_new_length_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class: the lengths, batches, heads, offsets, factors and strides of a call are its own."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("something is compiled")

    options = {"causal": True, "return_lse": True}
    flashc.attention(*small(1, (2, 2), (100, 100)), **options, q_offset=3, scale=0.1, softcap=2.0)
    monkeypatch.setattr("flashc.backends.cpu.run.compile_shared", refuse)
    monkeypatch.setattr("flashc.compiler.kernel.tune", refuse)
    for batch, heads, n in ((3, (4, 1), 17), (2, (8, 8), 333)):
        q, k, v = small(batch, heads, (n, n + 5))
        flashc.attention(q[:, ::-1], k, v, **options, q_offset=-1, scale=0.7, softcap=9.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeats_and_thread_counts_give_the_same_bits(dtype: str) -> None:
    q, k, v = small(lengths=(300, 300), dtype=dtype)
    found = []
    before = torch.get_num_threads()
    try:
        for count in (before, 1, 2, 2):
            torch.set_num_threads(count)
            found.append(attend(q, k, v, causal=True))
    finally:
        torch.set_num_threads(before)
    for again in found[1:]:
        np.testing.assert_array_equal(again, found[0])


def test_many_python_threads_at_once() -> None:
    """The same kernel and different ones, called and compiled at the same time."""
    q, k, v = small(lengths=(120, 120))
    calls: list[dict[str, Any]] = [
        {},
        {"causal": True},
        {"softcap": 3.0},
        {"window": (9, 4)},
        {"alibi_slopes": [0.5, 1.0, 0.0, 0.1]},
    ]
    expected = [attend(q, k, v, **options) for options in calls[:3]]

    def call(number: int) -> tuple[int, Array]:
        return number % 5, attend(q, k, v, **calls[number % 5])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(100)))
    expected += [attend(q, k, v, **options) for options in calls[3:]]
    for which, o in results:
        np.testing.assert_array_equal(o, expected[which])


# -- refusals


def _grad(x: Array) -> torch.Tensor:
    return torch.from_numpy(x).requires_grad_()


def refused(pattern: str, *args: Any, error: type[Exception] = ArgumentError, **options: Any) -> None:
    with pytest.raises(error, match=pattern):
        attend(*args, **options)


def test_tensors_that_require_grad_are_refused_unless_grad_is_off() -> None:
    q, k, v = small()
    refused("'q' requires grad.*no_grad", _grad(q), torch.from_numpy(k), torch.from_numpy(v))
    refused("'v' requires grad", torch.from_numpy(q), torch.from_numpy(k), _grad(v))
    with torch.no_grad():
        o = attend(_grad(q), _grad(k), _grad(v))
    np.testing.assert_array_equal(o.numpy(), attend(q, k, v))


def test_mixed_kinds_and_types_are_refused() -> None:
    q, k, v = small()
    t = torch.from_numpy
    refused("'k' is Tensor beside a ndarray", q, t(k), t(v))
    refused("'v' is ndarray beside a Tensor", t(q), t(k), v)
    refused("'k' has dtype f16.*f32", q, k.astype(np.float16), v)
    refused("'v' has dtype bf16.*f32", q, k, v.astype(ml_dtypes.bfloat16))
    refused('dtype: got "f64"', *(x.astype(np.float64) for x in (q, k, v)), error=WorkloadError)
    refused('dtype: got "i32"', *(x.astype(np.int32) for x in (q, k, v)), error=WorkloadError)
    refused('dtype: got ">f4"', q.astype(">f4"), k, v, error=WorkloadError)
    refused("'bias' is Tensor", q, k, v, bias=t(normal(0, 50, 70)))
    refused("'mask' has dtype f32.*bool", q, k, v, mask=np.ones((50, 70), np.float32))
    refused("'kv_lengths' has dtype f64.*i32", q, k, v, kv_lengths=np.array([1.0, 2.0]))
    refused("'alibi_slopes' has dtype f64.*f32", q, k, v, alibi_slopes=np.ones(4))


def test_wrong_shapes_are_refused() -> None:
    q, k, v = small()
    refused(r"q must have 4 dimensions.*\(4, 50, 40\)", q[0], k, v)
    refused("q must have 4 dimensions", [1.0], k, v)
    refused("4 heads, not a multiple of k's 3", q, k[:, :1].repeat(3, 1), v)
    refused("not a multiple of k's 0", q, k[:, :0], v[:, :0])
    refused("'k' has size 1 in dimension 0; B is 2 by argument 'q'", q, k[:1], v)
    refused("'v' has size 1 in dimension 1; Hkv is 2 by argument 'k'", q, k, v[:, :1])
    refused("'v' has size 60 in dimension 2; Lk is 70", q, k, v[:, :, :60])
    refused("'k' has size 39 in dimension 3; expected 40", q, k[..., :39], v)
    refused("head_dim: got 0", q[..., :0], k[..., :0], v, error=WorkloadError)
    refused("value_dim: got 0", q, k, v[..., :0], error=WorkloadError)
    refused("'bias' has size 49 in dimension 2; Lq is 50", q, k, v, bias=normal(0, 49, 70))
    refused("bias has 5 dimensions", q, k, v, bias=normal(0, 1, 1, 1, 1, 1))
    refused("bias is a float", q, k, v, bias=0.5)
    refused("'kv_lengths' has size 3 in dimension 0; B is 2", q, k, v, kv_lengths=[1, 2, 3])
    refused("'q_offset' has size 1 in dimension 0; B is 2", q, k, v, causal=True, q_offset=[1])
    refused("'alibi_slopes' has size 3 in dimension 0; Hq is 4", q, k, v, alibi_slopes=[1.0, 1.0, 1.0])


def test_wrong_options_are_refused() -> None:
    q, k, v = small()
    for window in ((3,), (1, 2, 3), (-2, 0), (0.5, 1)):
        refused(r"window is \(.*from -1 \(open\)", q, k, v, window=window)
    for softcap in (0.0, -1.0, np.nan, np.inf):
        refused("softcap is .*above 0", q, k, v, softcap=softcap)
    refused("scale is nan", q, k, v, scale=np.nan)
    refused("q_offset is 2147483648", q, k, v, causal=True, q_offset=2**31)
    refused("'q_offset' holds 2147483648.*32-bit", q, k, v, causal=True, q_offset=[0, 2**31])
    refused("'kv_lengths' holds 4294967297", q, k, v, kv_lengths=[1, 2**32 + 1])
    refused("score.*nothing", q, k, v, score="score + nothing", error=WorkloadError)
    refused("captures.*unused", q, k, v, captures={"unused": normal(0, 3)}, error=WorkloadError)
    keep = {"keep": "table[j] > 0"}
    refused("'table' has 69", q, k, v, **keep, captures={"table": normal(0, 69)}, error=WorkloadError)
    refused("table is a list", q, k, v, **keep, captures={"table": [1.0] * 70})


def test_outputs_that_cannot_be_written_are_refused() -> None:
    q, k, v = small()
    shape = (2, 4, 50, 24)
    frozen = np.zeros(shape, np.float32)
    frozen.flags.writeable = False
    refused("read-only", q, k, v, out=frozen)
    assert not frozen.any()
    longer = np.empty((2, 4, 50, 25), np.float32)
    refused(r"has shape \(2, 4, 50, 25\); expected \(2, 4, 50, 24\)", q, k, v, out=longer)
    refused("'o' has dtype f64", q, k, v, out=np.empty(shape))
    refused("stride 2 in its last dimension", q, k, v, out=np.empty((2, 4, 50, 48), np.float32)[..., ::2])
    records = np.zeros(shape, np.dtype([("tag", "u1"), ("value", "f4")]))
    refused("not aligned", q, k, v, out=records["value"])
    refused("Tensor beside ndarray", q, k, v, out=torch.empty(shape))
    refused("list beside ndarray", q, k, v, out=[0.0])
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    refused("on meta, the inputs on cpu", *tensors, out=torch.empty(shape, device="meta"))
    refused("requires grad", *tensors, out=torch.empty(shape, requires_grad=True))


def test_wrong_devices_are_refused() -> None:
    tensors = [torch.from_numpy(x) for x in small()]
    meta = [x.to("meta") for x in tensors]
    refused("on meta; move it to the CPU", *meta, device="native")
    refused("'v' is on meta, the first on cpu", *tensors[:2], meta[2])
    refused("layout torch.sparse_coo", tensors[0], tensors[1].to_sparse(), tensors[2])
    refused("unknown device 'a10000'", *tensors, device="a10000", error=LookupError)
    if not torch.cuda.is_available():
        refused("native-gpu.*GPU", *meta, error=DeviceAbsentError)


def test_an_absent_device_is_refused_before_anything_is_compiled(isolated_cache: Path) -> None:
    foreign = "graviton3" if os.uname().machine == "x86_64" else "epyc_9654"
    refused(foreign, *small(), device=foreign, error=DeviceAbsentError)
    assert not isolated_cache.exists()


# -- processes: threads, affinity, fork


needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


@pytest.mark.parametrize(
    ("setting", "count"),
    [(None, 4), ("1", 1), ("3", 3), (" 2,1", 2), ("0", 1), ("words", 4), ("", 4), ("-1", 4), ("100000", 4)],
)
def test_omp_num_threads_within_the_affinity(
    setting: str | None, count: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 5, 7})
    allowed_cores.cache_clear()
    request.addfinalizer(allowed_cores.cache_clear)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert threads() == count


PROGRAM = """
import os, sys, numpy as np
import flashc
from flashc.backends.cpu.run import threads
def call(**options): return flashc.attention(q, q, q, **options, return_lse=True)[0]
def started():
    before = len(os.listdir("/proc/self/task"))
    call()
    return len(os.listdir("/proc/self/task")) - before
q = np.random.default_rng(0).standard_normal((2, 4, 300, 40), dtype=np.float32)
"""


def python(code: str, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_two_cpus
def test_as_many_threads_run_as_are_asked_for() -> None:
    """Without torch in the process; it settles the number where it is imported."""
    narrow = f"os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nprint(threads(), started())"
    assert python("print(threads(), started(), 'torch' in sys.modules)", OMP_NUM_THREADS="1") == "1 0 False"
    assert python("print(threads(), started())", OMP_NUM_THREADS="2") == "2 1"
    assert python(narrow, OMP_NUM_THREADS="2") == "1 0"
    code = "import torch\nfor n in (1, 2):\n    torch.set_num_threads(n)\n    print(threads(), started() > 0)"
    assert python(code, OMP_NUM_THREADS="1") == "1 False\n2 True"


FORK = """
expected = call()
for repeat in range(3):
    child = os.fork()
    if child == 0:
        same = np.array_equal(call(), expected)
        fresh = call(softcap=3.0)  # loads or compiles another kernel
        os._exit(0 if same and np.isfinite(fresh).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(call(), expected)
print("done")
"""


@needs_two_cpus
def test_a_forked_child_has_threads_of_its_own() -> None:
    assert python(FORK) == "done"


FORK_WHILE_BUSY = """
import threading
expected = call()
stop = threading.Event()
def work():
    while not stop.is_set():
        call()
busy = [threading.Thread(target=work) for _ in range(2)]
for t in busy: t.start()
for repeat in range(5):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(call(), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for t in busy: t.join()
print("done")
"""


@needs_two_cpus
def test_a_fork_while_other_threads_are_in_kernels() -> None:
    assert python(FORK_WHILE_BUSY) == "done"


SHARED = """
import torch
from flashc.backends.cpu.run import shares_openmp
torch.set_num_threads(1)
expected = call()  # compiles; on one thread
torch.set_num_threads(2)
x = torch.randn(500, 500)
x @ x  # starts OpenMP's threads
print(shares_openmp(), min(started() for _ in range(20)), np.array_equal(call(), expected))
"""


@needs_two_cpus
@pytest.mark.parametrize("policy", ["active", "passive"])
def test_threads_of_openmp_work_while_they_spin(policy: str) -> None:
    """Where they sleep between regions, a pool of our own does; its thread is started once."""
    assert python(SHARED, OMP_WAIT_POLICY=policy) == "True 0 True"


@needs_two_cpus
@pytest.mark.parametrize("policy", ["active", "passive"])
def test_a_forked_child_leaves_openmp_alone(policy: str) -> None:
    """Its threads stay in the parent; a parallel region in the child would wait for them for ever."""
    assert python(SHARED + FORK, OMP_WAIT_POLICY=policy).endswith("done")
