"""Workload files: what is accepted, the examples, overrides. The errors are in test_workload_errors.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from workload_texts import ATTENTION, GEMM, text_with

from flashc.compiler.workload import Workload, load_workload, parse_override, workload_schema
from flashc.errors import WorkloadError
from flashc.ir.scalar import Coord, Fetch, Ref, maximum, minimum
from flashc.ops import registry
from flashc.ops.attention_spec import AttentionSpec
from flashc.ops.gemm_spec import GemmSpec

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def attention(extra: str) -> AttentionSpec:
    spec = load_workload(text_with(ATTENTION, extra)).spec
    assert isinstance(spec, AttentionSpec)
    return spec


def gemm(extra: str) -> GemmSpec:
    spec = load_workload(text_with(GEMM, extra)).spec
    assert isinstance(spec, GemmSpec)
    return spec


# --- accepted -------------------------------------------------------------------------------------


def test_the_example_of_the_readme() -> None:
    workload = load_workload(ROOT / "examples" / "attention.yaml")
    assert workload.op == "attention" and workload.source.endswith("attention.yaml")
    assert workload.text is not None and workload.text.startswith("op: attention")
    assert workload.spec == AttentionSpec(
        batch=4,
        heads_q=32,
        heads_kv=8,
        seq_q=4096,
        seq_kv=4096,
        head_dim=128,
        value_dim=128,
        dtype="bf16",
        bias_dtype="bf16",
        causal=True,
    )


@pytest.mark.parametrize(
    ("extra", "field", "expected"),
    [
        ("heads: 4", "heads_kv", 4),
        ("seq: 77", "seq_q", 77),
        ("seq: 0", "seq_kv", 0),
        ("batch: 0", "batch", 0),
        ("value_dim: 48", "value_dim", 48),
        ("causal: true", "causal", True),
        ("causal: no", "causal", False),
        ("q_offset: -3", "q_offset", -3),
        ("q_offset: [5, 60]", "q_offset", (5, 60)),
        ("window: [-1, 16]", "window", (-1, 16)),
        ("window: [-1, -1]", "window", None),
        ("window: [0, 0]", "window", (0, 0)),
        ("scale: 1e-3", "scale", 0.001),
        ("scale: 2", "scale", 2.0),
        ("scale: -.5", "scale", -0.5),
        ("softcap: 30", "softcap", 30.0),
        ("kv_lengths: [128, 0]", "kv_lengths", (128, 0)),
        ("alibi: true", "alibi", True),
        ("bias: {shape: [128]}", "bias_shape", (128,)),
        ("bias: {shape: [2, 1, 64, 1]}", "bias_shape", (2, 1, 64, 1)),
        ("bias: {shape: [1], dtype: float32}", "bias_dtype", "f32"),
        ("bias: {shape: [1]}", "bias_dtype", "bf16"),
        ("mask: {shape: [8, 64, 128]}", "mask_shape", (8, 64, 128)),
        ("outputs: [lse, o]", "outputs", ("o", "lse")),
        ("outputs: [o]", "outputs", ("o",)),
        ("keep: j <= qpos", "keep", Coord("j") <= Coord("qpos")),
        ("score: score * 2", "score", Ref("score") * 2),
    ],
)
def test_attention_keys(extra: str, field: str, expected: object) -> None:
    found = getattr(attention(extra), field)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("extra", "field", "expected"),
    [
        ("batch: 3", "batch", 3),
        ("m: 0", "m", 0),
        ("transpose_a: true", "transpose_a", True),
        ("transpose_b: true", "transpose_b", True),
        ("out_dtype: fp32", "out_dtype", "f32"),
        ("dtype: bf16", "out_dtype", "bf16"),
        ("epilogue: acc + i - j", "epilogue", Ref("acc") + Coord("i") - Coord("j")),
        ("epilogue: acc * c0[0]\ncaptures: {c0: {shape: [1]}}", "captures", (("c0", (1,), "f32"),)),
    ],
)
def test_gemm_keys(extra: str, field: str, expected: object) -> None:
    assert getattr(gemm(extra), field) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", "f32"),
        ("f32", "f32"),
        ("float32", "f32"),
        ("fp16", "f16"),
        ("f16", "f16"),
        ("float16", "f16"),
        ("bf16", "bf16"),
        ("bfloat16", "bf16"),
    ],
)
def test_dtype_names(name: str, expected: str) -> None:
    assert attention(f"dtype: {name}").dtype == expected


def test_computed_indices_are_clamped_to_the_captured_tensor() -> None:
    spec = attention("score: score + t[h, j - i]\ncaptures: {t: {shape: [8, 65], dtype: fp16}}")
    inside = minimum(maximum(Coord("j") - Coord("i"), 0), 64)
    assert spec.score == Ref("score") + Fetch("t", (Coord("h"), inside))
    assert spec.captures == (("t", (8, 65), "f16"),)


def test_indices_inside_indices_are_clamped_too() -> None:
    spec = attention("keep: t[s[j] + 1] > 0\ncaptures:\n  t: {shape: [4]}\n  s: {shape: [128], dtype: i64}")
    at = minimum(maximum(Fetch("s", (Coord("j"),)) + 1, 0), 3)
    assert spec.keep == (Fetch("t", (at,)) > 0)


def test_a_mapping_is_a_workload_too() -> None:
    keys: dict[str, Any] = {
        "op": "attention",
        "heads": 2,
        "seq": 5,
        "head_dim": 8,
        "dtype": "fp32",
        "window": (3, 0),
    }
    workload = load_workload(keys)
    assert (workload.source, workload.text, workload.spec.window, workload.spec.batch) == (
        "<dict>",
        None,
        (3, 0),
        1,
    )
    with pytest.raises(WorkloadError, match=r"^<dict>: heads: got 0\n"):
        load_workload({**keys, "heads": 0})


def test_text_and_file_agree(tmp_path: Path) -> None:
    text = text_with(ATTENTION, "causal: true")
    path = tmp_path / "w.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_workload(text).spec == load_workload(path).spec == load_workload(str(path)).spec
    assert load_workload("{op: gemm, m: 1, n: 2, k: 3, dtype: fp32}").op == "gemm"


# --- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_and_agrees_with_the_editors_schema(path: Path) -> None:
    workload = load_workload(path)
    schema = json.loads((ROOT / "docs" / "schema" / "workload.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert registry()[workload.op].schedules(workload.spec)


def _refused(rule: dict[str, Any]) -> bool:
    return str(rule.get("description", "")).startswith("refused")


def test_the_examples_cover_every_key_and_the_shapes_that_matter() -> None:
    workloads = [load_workload(path) for path in EXAMPLES]
    attentions = [w for w in workloads if w.op == "attention"]
    specs = [w.spec for w in attentions]
    assert len(attentions) > 30
    for name, operator in registry().items():
        used = {key for w in workloads if w.op == name for key in w.document.data}
        offered = {key for key, rule in operator.schema["properties"].items() if not _refused(rule)}
        assert used == {"op", *offered}
    assert {s.dtype for s in specs} == {"f32", "f16", "bf16"}
    assert {40, 72, 80, 96, 128, 192, 256} <= {s.head_dim for s in specs}
    assert {1, 17, 137, 1025} <= {s.seq_q for s in specs}
    assert {s.heads_q // s.heads_kv for s in specs} >= {1, 2, 4, 8, 16}
    assert any(s.value_dim < s.head_dim for s in specs) and any(s.value_dim > s.head_dim for s in specs)
    assert len({tuple(n > 1 for n in (1, 1, 1, *s.bias_shape)[-4:]) for s in specs if s.bias_shape}) >= 4
    assert any(s.batch == 0 for s in specs) and any(0 in (s.kv_lengths or ()) for s in specs)
    assert any(s.causal and s.seq_q > s.seq_kv for s in specs)


def test_the_editors_schema_is_in_step() -> None:
    path = ROOT / "docs" / "schema" / "workload.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == workload_schema(), (
        "run: python -m flashc.compiler.workload > docs/schema/workload.schema.json"
    )


def test_the_documentation_names_every_key_and_default() -> None:
    text = (ROOT / "docs" / "workload.md").read_text(encoding="utf-8")
    for operator in registry().values():
        missing = [key for key in operator.schema["properties"] if f"| `{key}`" not in text]
        assert not missing


# --- overrides ------------------------------------------------------------------------------------


@pytest.fixture
def workload() -> Workload:
    return load_workload(text_with(ATTENTION, "seq: 64\ncausal: true\nsoftcap: 20"))


def test_overrides_set_nested_keys_and_remove_with_none(workload: Workload) -> None:
    changed = workload.with_overrides({"seq.q": 7, "causal": False, "softcap": None, "value_dim": 9})
    spec = changed.spec
    assert (spec.seq_q, spec.seq_kv, spec.causal, spec.softcap, spec.value_dim) == (7, 64, False, None, 9)
    assert (workload.spec.seq_q, workload.spec.softcap) == (64, 20.0)
    assert (
        changed.with_overrides({"seq.q": 64, "value_dim": None, "softcap": 20, "causal": True}).spec
        == workload.spec
    )
    assert workload.with_overrides({}) is workload


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq.q": -1}, "--set seq.q=-1: seq.q: got -1\n  allowed: an integer from 0"),
        ({"seq.k": 1}, "--set seq.k=1: seq.k: unknown key, with value 1\n  allowed: q, kv\n"),
        (
            {"seq": 0, "kv_lengths": [0, 1]},
            "--set kv_lengths=[0, 1]: kv_lengths[1]: got 1\n  allowed: 0 to seq.kv = 0",
        ),
        ({"heads": {"q": 8, "kv": 0}}, '--set heads={"q": 8, "kv": 0}: heads.kv: got 0\n'),
        (
            {"dtype.x": 1},
            '--set dtype.x=1: dtype is "bf16"\n  allowed: keys of a mapping\n  fix: override dtype as a',
        ),
        ({"casual": True}, "--set casual=true: casual: unknown key, with value true\n"),
        (
            {"op": "gem"},
            '--set op="gem": op: got "gem"\n  allowed: one of attention, attention_backward, gemm, recurrent, '
            "recurrent_backward\n  fix: did you mean 'gemm'?",
        ),
        ({"head_dim": None}, "<text>:1: head_dim: missing\n"),
    ],
)
def test_overrides_are_checked_and_name_themselves(
    workload: Workload, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(WorkloadError) as caught:
        workload.with_overrides(values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seq.q=128", ("seq.q", 128)),
        ("causal=false", ("causal", False)),
        ("window=[1, -1]", ("window", [1, -1])),
        ("score=score * 2", ("score", "score * 2")),
        ("keep=i == j", ("keep", "i == j")),
        ("softcap=", ("softcap", None)),
        ("scale=1e-2", ("scale", 0.01)),
        ("heads={q: 4, kv: 2}", ("heads", {"q": 4, "kv": 2})),
    ],
)
def test_overrides_from_a_command_line(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["seq.q", "=3", "seq=[1"])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(WorkloadError, match=re.escape(f"--set {text}")):
        parse_override(text)


# --- start-up, other operators --------------------------------------------------------------------


def test_importing_the_loader_does_not_import_jsonschema() -> None:
    code = "import sys, flashc.compiler.workload; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Doubling:
    """A toy operator: the loader knows nothing but a schema and a parse function."""

    name = "double"
    schema = {
        "type": "object",
        "required": ["size"],
        "additionalProperties": False,
        "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 9, "examples": [3]}},
    }

    @staticmethod
    def parse(data: Any, where: Any) -> tuple[int, str]:
        return data["size"] * 2, where(("size",))


def test_any_operator_with_a_schema_can_be_loaded() -> None:
    operators = {"double": Doubling()}
    workload = load_workload("op: double\nsize: 4\n", operators)
    assert workload.spec == (8, "<text>:2")
    assert workload.with_overrides({"size": 5}, operators).spec == (10, "--set size=5")
    with pytest.raises(WorkloadError, match="an integer from 1 to 9"):
        load_workload("op: double\nsize: 10\n", operators)
    with pytest.raises(WorkloadError, match="allowed: one of double"):
        load_workload("op: attention\nsize: 10\n", operators)
    assert [option["title"] for option in workload_schema(operators)["oneOf"]] == ["double"]


def test_a_float_is_no_size_even_from_numpy() -> None:
    with pytest.raises(WorkloadError, match="m: got 3.0"):
        load_workload({"op": "gemm", "m": np.float64(3), "n": 1, "k": 1, "dtype": "fp32"})
