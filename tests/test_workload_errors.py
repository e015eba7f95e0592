"""For every key of a workload: what a mistake in it is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from workload_texts import ATTENTION, GEMM, text_with

from flashc.compiler.workload import load_workload
from flashc.errors import ExpressionError, WorkloadError
from flashc.ops import registry

SIZE = "an integer from {} to 2147483647"
NUMBER = "a number from {} to 1e+30"
FLOATS = "one of fp32, fp16, bf16"
BAD_ATTENTION = [
    # extra lines (the first of them has the mistake), key, value shown, allowed, fix
    ("batch: -1", "batch", "-1", SIZE.format(0), "batch: 4"),
    ("batch: 2.5", "batch", "2.5", SIZE.format(0), "batch: 4"),
    ("batch: 2.0", "batch", "2.0", SIZE.format(0), "batch: 4"),
    ("batch: true", "batch", "true", SIZE.format(0), "batch: 4"),
    ("batch: '2'", "batch", '"2"', SIZE.format(0), "batch: 4"),
    ("batch: 4000000000", "batch", "4000000000", SIZE.format(0), "batch: 4"),
    ("heads: 0", "heads", "0", SIZE.format(1), "heads: {q: 8, kv: 8}"),
    ("heads: [8, 2]", "heads", "[8, 2]", "or a mapping of q, kv", "heads: {q: 8, kv: 8}"),
    ("heads: {q: 8, kv: 0}", "heads.kv", "0", SIZE.format(1), "heads: {q: 8, kv: 8}"),
    ("heads: {q: 8}", "heads.kv", "missing", "all of q, kv", "heads: {q: 8, kv: 8}"),
    ("heads: {q: 8, kv: 2, v: 2}", "heads.v", "2", "q, kv", "did you mean 'kv'?"),
    ("heads: {q: 8, kv: 3}", "heads", '{"q": 8, "kv": 3}', "q a multiple of kv = 3", "{q: 6, kv: 3}"),
    ("heads: {q: 2, kv: 4}", "heads", '{"q": 2, "kv": 4}', "q a multiple of kv = 4", "{q: 4, kv: 4}"),
    ("seq: -5", "seq", "-5", SIZE.format(0), "seq: {q: 4096, kv: 4096}"),
    ("seq: {q: 5, kv: x}", "seq.kv", '"x"', SIZE.format(0), "seq: {q: 4096, kv: 4096}"),
    ("seq: 2147483647\nhead_dim: 65536", "seq", "elements", "at most 2^48", "reduce the sizes"),
    ("head_dim: 0", "head_dim", "0", SIZE.format(1), "head_dim: 128"),
    ("head_dim:", "head_dim", "null", SIZE.format(1), "give a value, or remove the key"),
    ("value_dim: 0", "value_dim", "0", SIZE.format(1), "value_dim: 128"),
    ("value_dim: [32]", "value_dim", "[32]", SIZE.format(1), "value_dim: 128"),
    ("dtype: fp64", "dtype", '"fp64"', FLOATS, "dtype: fp32"),
    ("dtype: bfloat", "dtype", '"bfloat"', FLOATS, "did you mean 'bfloat16'?"),
    ("dtype: 16", "dtype", "16", FLOATS, "did you mean 'f16'?"),
    ("causal: 1", "causal", "1", "true or false", "causal: true"),
    ("causal: 'yes'", "causal", '"yes"', "true or false", "causal: true"),
    ("q_offset: 1.5", "q_offset", "1.5", "an integer from -2147483647", "q_offset: 0"),
    ("q_offset: [1, a]", "q_offset[1]", '"a"', "an integer from -2147483647", "q_offset: 0"),
    (
        "q_offset: [1, 2, 3]",
        "q_offset",
        "[1, 2, 3]",
        "a list of 2, one for each of batch",
        "give 2 instead of 3",
    ),
    ("window: 128", "window", "128", "a list of 2", "window: [256, 0]"),
    ("window: [128]", "window", "[128]", "a list of 2", "window: [256, 0]"),
    ("window: [128, -2]", "window[1]", "-2", SIZE.format(-1), "window: [256, 0]"),
    ("window: [1, 2, 3]", "window", "[1, 2, 3]", "a list of 2", "window: [256, 0]"),
    ("scale: .nan", "scale", "NaN", NUMBER.format("-1e+30"), "scale: 0.125"),
    ("scale: .inf", "scale", "Infinity", NUMBER.format("-1e+30"), "scale: 0.125"),
    ("scale: auto", "scale", '"auto"', NUMBER.format("-1e+30"), "scale: 0.125"),
    ("softcap: 0", "softcap", "0", NUMBER.format("1e-30"), "softcap: 30.0"),
    ("softcap: -30", "softcap", "-30", NUMBER.format("1e-30"), "softcap: 30.0"),
    ("softcap: false", "softcap", "false", NUMBER.format("1e-30"), "softcap: 30.0"),
    ("bias: true", "bias", "true", "a mapping of shape, dtype", "bias: {shape:"),
    ("bias: {}", "bias.shape", "missing", "all of shape", "bias: {shape:"),
    ("bias: {shape: []}", "bias.shape", "[]", "a list of 1 to 4", "bias: {shape:"),
    ("bias: {shape: [1, 1, 1, 1, 1]}", "bias.shape", "[1, 1, 1, 1, 1]", "a list of 1 to 4", "bias: {shape:"),
    ("bias: {shape: [2, 8, 64, 64]}", "bias.shape[3]", "64", "1 or seq.kv = 128", "write 1 or 128"),
    ("bias: {shape: [2, 64, 128]}", "bias.shape[0]", "2", "1 or heads.q = 8", "write 1 or 8"),
    ("bias: {shape: [128], dtype: i32}", "bias.dtype", '"i32"', FLOATS, "bias: {shape:"),
    ("bias: {shape: [128], scale: 2}", "bias.scale", "2", "shape, dtype", "did you mean 'shape'?"),
    ("mask: 1", "mask", "1", "a mapping of shape", "mask: {shape:"),
    ("mask: {shape: [3, 1, 1, 128]}", "mask.shape[0]", "3", "1 or batch = 2", "write 1 or 2"),
    ("mask: {shape: [63, 128]}", "mask.shape[0]", "63", "1 or seq.q = 64", "write 1 or 64"),
    ("mask: {shape: [128], dtype: bool}", "mask.dtype", '"bool"', "shape", "remove it"),
    ("kv_lengths: 100", "kv_lengths", "100", "a list of values", "kv_lengths: [4096"),
    ("kv_lengths: [100]", "kv_lengths", "[100]", "a list of 2, one for each of batch", "give 2 instead of 1"),
    ("kv_lengths: [100, 129]", "kv_lengths[1]", "129", "0 to seq.kv = 128", "kv: 129"),
    ("kv_lengths: [100, -1]", "kv_lengths[1]", "-1", SIZE.format(0), "kv_lengths: [4096"),
    ("alibi: [1, 2]", "alibi", "[1, 2]", "true or false", "alibi: true"),
    ("score: 3", "score", "3", "a text", "score: score - 0.1"),
    ("score: ''", "score", '""', "a text", "score: score - 0.1"),
    ("score: scor * 2", "score", "scor * 2", "b, false, h, i, inf, j, qpos, score", "did you mean 'score'?"),
    ("score: i < j", "score", "its value is bool", "a float expression", "compute with `score`"),
    ("score: i + j", "score", "its value is int", "a float expression", "compute with `score`"),
    (
        "score: where(i < j, 1.0, 0.5)",
        "score",
        "`score` is not used",
        "an expression of `score`",
        "`score + ...`",
    ),
    ("score: score // 2", "score", "got float and int", "operands of the right kind", "correct"),
    (
        "score: score + t[j]",
        "score",
        "'t' is not a captured tensor",
        "captured tensors: none",
        "captures: {t:",
    ),
    ("keep: true", "keep", "true", "a text", "keep: j <= qpos"),
    ("keep: j - i", "keep", "its value is int", "a bool expression", "compare"),
    ("keep: score > 0", "keep", "unknown name 'score'", "b, false, h, i, inf, j, qpos, true", "grammar"),
    ("keep: i < j < h", "keep", "chained comparison", "one comparison", "a < b and b < c"),
    ("captures: [t]", "captures", '["t"]', "a mapping of name: value", "captures: {slopes:"),
    ("captures: {t: [8]}", "captures.t", "[8]", "a mapping of shape, dtype", "captures: {slopes:"),
    ("captures: {t: {dtype: fp32}}", "captures.t.shape", "missing", "all of shape", "captures: {slopes:"),
    ("captures: {t: {shape: [0]}}", "captures.t.shape[0]", "0", SIZE.format(1), "captures: {slopes:"),
    ("captures: {t: {shape: [8], dtype: fp8}}", "captures.t.dtype", '"fp8"', FLOATS, "captures: {slopes:"),
    ("captures: {2t: {shape: [8]}}", "captures.2t", '"2t"', "letters, digits and _", "rename it"),
    ("captures: {bias: {shape: [8]}}", "captures.bias", '"bias"', "a name other than q, k, v", "my_bias"),
    ("captures: {t: {shape: [8]}}", "captures.t", '"t"', "tensors that an expression reads", "use t[..]"),
    ("outputs: [lse]", "outputs", '["lse"]', "one of [o], [o, lse]", "outputs: [o, lse]"),
    ("outputs: lse", "outputs", '"lse"', "one of [o], [o, lse]", "outputs: [o, lse]"),
    ("outputs: [o, o]", "outputs", '["o", "o"]', "one of [o], [o, lse]", "outputs: [o, lse]"),
    ("cuasal: true", "cuasal", "true", "batch, heads, seq, head_dim", "did you mean 'causal'?"),
    ("zzz: {a: 1}", "zzz", '{"a": 1}', "batch, heads, seq, head_dim", "remove it"),
]
BAD_GEMM = [
    ("batch: x", "batch", '"x"', SIZE.format(0), "batch: 8"),
    ("m: -1", "m", "-1", SIZE.format(0), "m: 4096"),
    ("n: 1.5", "n", "1.5", SIZE.format(0), "n: 4096"),
    ("k: [3]", "k", "[3]", SIZE.format(0), "k: 4096"),
    ("m: 2147483647\nk: 2147483647", "m", "elements", "at most 2^48", "reduce the sizes"),
    ("n: 2147483647\nk: 2147483647", "n", "elements", "at most 2^48", "reduce the sizes"),
    ("transpose_a: 1", "transpose_a", "1", "true or false", "transpose_a: true"),
    ("transpose_b: t", "transpose_b", '"t"', "true or false", "transpose_b: true"),
    ("dtype: int8", "dtype", '"int8"', FLOATS, "dtype: fp32"),
    ("out_dtype: float61", "out_dtype", '"float61"', FLOATS, "did you mean 'float16'?"),
    ("epilogue: i + j", "epilogue", "its value is int", "a float expression", "compute with `acc`"),
    ("epilogue: i * 0.5", "epilogue", "`acc` is not used", "an expression of `acc`", "`acc + ...`"),
    ("epilogue: score + 1", "epilogue", "unknown name 'score'", "acc, b, false, i, inf, j, true", "grammar"),
    ("captures: {acc: {shape: [1]}}", "captures.acc", '"acc"', "a name other than a, b, c", "my_acc"),
    (
        "captures: {t: {shape: [1, 2, 3, 4, 5]}}",
        "captures.t.shape",
        "[1, 2, 3, 4, 5]",
        "a list of 1 to 4",
        "captures: {slopes:",
    ),
    ("transpose: true", "transpose", "true", "m, n, k", "did you mean 'transpose_"),
]


BAD_RECURRENT = [
    ("cell: lstn", "cell", '"lstn"', "one of lstm, slstm, gru, gru_before, elman", "cell: lstm"),
    ("cell: {states: [h], step: {h: h}}", "cell.gates", "missing", "all of states, gates, step", "cell: lstm"),
    ("cell: {states: [c], gates: {a: both}, step: {c: c}}", "cell.states", "c", "h first", "write [h, c]"),
    ("cell: {states: [h], gates: {a: x}, step: {h: a}}", "cell.gates.a", '"x"', "both, recurrent, input", "cell: lstm"),
    ("cell: {states: [h], gates: {a: both}, step: {b: a}}", "cell.step", "b", "an assignment of every state", "add h"),
    ("batch: x", "batch", '"x"', SIZE.format(0), "batch: 16"),
    ("steps: -1", "steps", "-1", SIZE.format(0), "steps: 1024"),
    ("steps: 2147483647\nhead_dim: 2147483647", "steps", "elements", "at most 2^48", "reduce the sizes"),
    ("heads: 0", "heads", "0", SIZE.format(1), "heads: 4"),
    ("head_dim: 1.5", "head_dim", "1.5", SIZE.format(1), "head_dim: 64"),
    ("input_dim: 0", "input_dim", "0", SIZE.format(1), "input_dim: 256"),
    ("dtype: int8", "dtype", '"int8"', FLOATS, "dtype: fp32"),
    ("lengths: [9, 1]", "lengths[0]", "9", "0 to steps = 7", "raise steps"),
    ("lengths: [1]", "lengths", "[1]", "a list of 2, one for each of batch", "give 2 instead of 1"),
    ("resets: 1", "resets", "1", "true or false", "resets: true"),
    ("initial_state: yes_", "initial_state", '"yes_"', "true or false", "initial_state: true"),
    ("reverse: 0", "reverse", "0", "true or false", "reverse: true"),
    ("outputs: [h]", "outputs[0]", '"h"', "one of y, last", "outputs: [y, last]"),
    ("hidden: 8", "hidden", "8", "cell, batch, steps, heads", "remove it"),
]
BAD_RECURRENT_BACKWARD = [
    *BAD_RECURRENT,
    ("clip: 0", "clip", "0", "a number from 1e-30 to 1e+30", "clip: 1.0"),
    ("outputs: [saved]", "outputs[0]", '"saved"', "one of y, last", "outputs: [y, last]"),
]
RECURRENT = {"op": "recurrent", "cell": "lstm", "batch": "2", "steps": "7", "head_dim": "8", "dtype": "fp32"}


# The same keys, but that two are refused whatever they say (tests/test_attention_backward.py).
REFUSED = {"bias", "score"}
BAD_BACKWARD = [row for row in BAD_ATTENTION if not re.search("bias|score|outputs", row[0])]
BACKWARD = {**ATTENTION, "op": "attention_backward"}


@pytest.mark.parametrize(
    ("base", "extra", "key", "value", "allowed", "fix"),
    [(ATTENTION, *row) for row in BAD_ATTENTION]
    + [(BACKWARD, *row) for row in BAD_BACKWARD]
    + [(GEMM, *row) for row in BAD_GEMM]
    + [(RECURRENT, *row) for row in BAD_RECURRENT]
    + [({**RECURRENT, "op": "recurrent_backward"}, *row) for row in BAD_RECURRENT_BACKWARD],
)
def test_a_mistake_names_file_line_key_value_allowed_and_fix(
    tmp_path: Path, base: dict[str, str], extra: str, key: str, value: str, allowed: str, fix: str
) -> None:
    path = tmp_path / "bad.yaml"
    text = text_with(base, extra)
    path.write_text(text, encoding="utf-8")
    line = text.splitlines().index(extra.splitlines()[0]) + 1
    with pytest.raises(WorkloadError) as caught:
        load_workload(path)
    message = str(caught.value)
    found, _, rest = message.partition("\n  allowed: ")
    allowed_line, _, fix_line = rest.partition("\n  fix: ")
    assert found.startswith(f"{path}:{line}: {key}: ") and value in found
    assert allowed in allowed_line
    assert fix in fix_line


def test_every_key_has_a_mistake_above() -> None:
    tried = {
        "attention": {row[1] for row in BAD_ATTENTION},
        "attention_backward": {row[1] for row in BAD_BACKWARD} | REFUSED,
        "gemm": {row[1] for row in BAD_GEMM},
        "recurrent": {row[1] for row in BAD_RECURRENT},
        "recurrent_backward": {row[1] for row in BAD_RECURRENT_BACKWARD},
    }
    for name, operator in registry().items():
        roots = {re.split(r"[.\[]", key)[0] for key in tried[name]}
        assert set(operator.schema["properties"]) <= roots


@pytest.mark.parametrize("key", ["heads", "seq", "head_dim", "dtype"])
def test_a_missing_key_is_named_with_an_example(key: str) -> None:
    text = "\n".join(f"{name}: {value}" for name, value in ATTENTION.items() if name != key)
    with pytest.raises(
        WorkloadError, match=rf"^<text>:1: {key}: missing\n  allowed: all of .*\n  fix: add .*`{key}: "
    ):
        load_workload(text)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("captures: {t: {shape: [7]}}\nkeep: t[h] > 0", "'t' has 7 along dimension 0, its index reaches 7"),
        (
            "captures: {t: {shape: [2, 3]}}\nkeep: t[b, 3] > 0",
            "'t' has 3 along dimension 1, its index reaches 3",
        ),
        ("captures: {t: {shape: [2]}}\nkeep: t[-1] > 0", "'t' has 2 along dimension 0, its index reaches -1"),
        ("captures: {t: {shape: [2]}}\nkeep: t[b]", "its value is float"),
        ("captures: {t: {shape: [2]}}\nkeep: t[b, h] > 0", "2 index(es)"),
        ("captures: {t: {shape: [2]}}\nkeep: t[t[b]] > 0", "an index must be int, got float"),
    ],
)
def test_misuse_of_a_captured_tensor(extra: str, problem: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        load_workload(text_with(ATTENTION, extra))
    assert str(caught.value).startswith("<text>:8: keep: ") and problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "problem", "fix"),
    [
        ("\n", 1, "nothing", "op: attention"),
        ("- 1\n- 2\n", 1, "[1, 2]", "op: attention"),
        ("batch: 4\n", 1, "op: got null", "op: attention"),
        ("batch: 4\nop: atention\n", 2, 'op: got "atention"', "did you mean 'attention'?"),
        ("op: [attention]\n", 1, 'op: got ["attention"]', "op: attention"),
        ("op: gemm\nm: 1\nm: 2\n", 3, "m is given twice, first in line 2", "remove one"),
        (
            "op: attention\nheads:\n  q: 1\n  q: 2\n",
            4,
            "heads.q is given twice, first in line 3",
            "remove one",
        ),
        ("op: gemm\n3: 4\n", 2, 'key "3"', "quote or rename"),
        ("op: gemm\n? [a]\n: 4\n", 2, "key [", "quote or rename"),
        ("op: gemm\nm: [1\nn: 2\n", 3, "not YAML at column 2", "correct the YAML"),
        ("op: gemm\nm: &x 1\nn: *x\n", 3, "an alias", "correct the YAML"),
        (
            "op: gemm\nm: !!python/name:os.system\n",
            2,
            "could not determine a constructor",
            "correct the YAML",
        ),
        ("op: gemm\n---\nop: gemm\n", 2, "another document", "correct the YAML"),
        ("op: gemm\nm: \x00\n", 1, "not YAML", "UTF-8"),
        ("op: gemm\nm: " + "[" * 3000, 1, "nested too deeply", "flat"),
        ("op: gemm # " + "x" * (1 << 20), 1, "characters", "shorten"),
    ],
)
def test_text_that_is_no_workload(text: str, line: int, problem: str, fix: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        load_workload(text)
    found, _, rest = str(caught.value).partition("\n  allowed: ")
    assert found.startswith(f"<text>:{line}: ") and problem in found
    assert fix in rest.partition("\n  fix: ")[2]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="absent.yaml: no such file"):
        load_workload(tmp_path / "absent.yaml")
    with pytest.raises(WorkloadError, match="directory"):
        load_workload(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"op: gemm\n# caf\xe9\n")
    with pytest.raises(WorkloadError, match=r"latin.yaml: not UTF-8 text"):
        load_workload(tmp_path / "latin.yaml")
