"""The pages of a report: whole, self-contained, escaped, and with no text outside its picture."""

from __future__ import annotations

import functools
import itertools
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_cases import ATTENTION, CASES, GEMM, case, report, swept

from flashc.report import html, markdown, plots
from flashc.report.gather import gather

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "wbr", "hr", "img", "input", "link"}
EVERY = pytest.mark.parametrize(("device", "name"), CASES)


class Balanced(HTMLParser):
    """Collects tags and attributes; every tag must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def parsed(page: str) -> Balanced:
    found = Balanced()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


@functools.cache
def rendered(device: str, name: str) -> str:
    return html.render(report(device, name))


@EVERY
def test_the_page_is_whole_and_fetches_nothing(device: str, name: str) -> None:
    page = rendered(device, name)
    found = parsed(page)
    assert found.tags.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not [a for a in found.attributes if a[0] in ("src", "href", "action") or a[0].startswith("on")]
    names = re.compile(r'xmlns(:xlink)?="http://www.w3.org/[^"]*"')
    assert "@import" not in page and "http" not in names.sub("", page)
    assert all(target.startswith("#") for name, target in found.attributes if name == "xlink:href")
    assert re.findall(r"url\((?!#)", page) == []
    assert len(page.encode()) < 300_000


@EVERY
def test_every_mathml_formula_is_well_formed(device: str, name: str) -> None:
    formulas = re.findall(r"<math.*?</math>", rendered(device, name), re.DOTALL)
    assert formulas
    for formula in formulas:
        ElementTree.fromstring(formula.replace("&InvisibleTimes;", "").replace("&it;", ""))


def drawn(page: str) -> dict[str, ElementTree.Element]:
    """Every picture of the page, by the name of its title."""
    pictures = (ElementTree.fromstring(picture) for picture in re.findall("<svg.*?</svg>", page, re.DOTALL))
    return {picture.attrib["aria-labelledby"].split("-title")[0]: picture for picture in pictures}


Box = tuple[str, float, float, float, float]


def boxes(picture: ElementTree.Element, em: float) -> list[Box]:
    """(text, left, top, right, bottom) of every text, its characters ``em`` of their size wide; turned ones too."""
    found = []
    for element in picture.iter(f"{SVG}text"):
        style, text = element.attrib["style"], element.text or ""
        size, anchor = re.search(r"font[^;]*?([\d.]+)px", style), re.search(r"text-anchor: (\w+)", style)
        turn, x, y = map(float, re.findall(r"-?[\d.]+", element.attrib["transform"].removeprefix("rotate")))
        assert size and anchor
        height, wide = float(size[1]), float(size[1]) * em * len(text)
        start = -wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor[1]]
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        corners = [(x + cosine * u - sine * v, y + sine * u + cosine * v)
                   for u in (start, start + wide) for v in (-0.7 * height, 0.15 * height)]  # fmt: skip
        xs, ys = zip(*corners, strict=True)
        found.append((text, min(xs), min(ys), max(xs), max(ys)))
    return found


def outside(picture: ElementTree.Element) -> list[str]:
    """Texts that reach over the edge of the picture, with wide characters."""
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    found = boxes(picture, 0.54)
    assert len(found) > 8
    return [t for t, x, y, right, bottom in found if x < -1 or y < -1 or right > width + 1 or bottom > height + 1]


def overlapping(picture: ElementTree.Element) -> list[tuple[str, str]]:
    """Pairs of texts that touch, with narrow characters; of a turned one its whole box counts."""
    return [
        (a[0], b[0])
        for a, b in itertools.combinations(boxes(picture, 0.5), 2)
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]


@EVERY
def test_no_text_is_cut_off_or_covered(device: str, name: str) -> None:
    for label, picture in drawn(rendered(device, name)).items():
        assert (outside(picture), overlapping(picture)) == ([], []), label


def test_no_text_of_a_sweep_is_cut_off_or_covered() -> None:
    pictures = drawn(html.render(swept()))
    assert {re.sub(r"\d+", "", label) for label in pictures} == {
        "traffic",
        "roofline",
        "sweep-bytes-moved",
        "sweep-time",
    }
    for label, picture in pictures.items():
        assert (outside(picture), overlapping(picture)) == ([], []), label


@EVERY
def test_every_series_level_and_regime_is_named_in_the_traffic_plot(device: str, name: str) -> None:
    """In the picture or, for a band too narrow for its name, by a letter that the legend explains."""
    found = report(device, name)
    wanted = {s.name for s in found.curves.series} | {m.name for m in found.curves.marks}
    wide = {s.name for s in found.curves.rules if math.log2(s.end / s.start) > 0.6}
    pictures = drawn(rendered(device, name))
    for label in (f"traffic{plots.WIDE}", f"traffic{plots.NARROW}"):
        written = [text for text, *_ in boxes(pictures[label], 0.5)]
        explained = dict(text.split(": ", 1) for text in written if re.match("[a-z]: ", text))
        assert wanted | wide <= {*written, *explained.values()}, label
        assert explained.keys() <= {*written} and not [text for text in written if "…" in text], label


@EVERY
def test_colours_are_variables_that_both_schemes_define(device: str, name: str) -> None:
    light, dark = html.style_sheet("colours.css").split("@media (prefers-color-scheme:dark)")
    pictures = "".join(re.findall("<svg.*?</svg>", rendered(device, name), re.DOTALL))
    used = set(re.findall(r"var\((--\w+)\)", pictures))
    assert {"--ink", "--paper", "--c1"} <= used and not re.findall(r"(?:fill|stroke): #\w+", pictures)
    assert all(f"{variable}:#" in sheet for variable in used for sheet in (light, dark))


@EVERY
def test_pictures_say_what_they_show(device: str, name: str) -> None:
    for picture in drawn(rendered(device, name)).values():
        texts = {e.attrib["id"]: e.text or "" for e in picture if e.tag in (f"{SVG}title", f"{SVG}desc")}
        assert picture.attrib["role"] == "img"
        assert all(len(texts[i]) > 10 for i in picture.attrib["aria-labelledby"].split())


def test_only_the_pages_import_matplotlib() -> None:
    code = (
        "import sys, flashc.cli, flashc.commands.report, flashc.report.gather, flashc.report.document;"
        "print([m for m in sys.modules if m.startswith('matplotlib')]);"
        "import flashc.report.html; print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split("\n")[:2] == ["[]", "True False"]


@EVERY
def test_identifiers_are_unique_on_the_page(device: str, name: str) -> None:
    names = re.findall(r'\bid="([^"]+)"', rendered(device, name))
    assert names and len(names) == len(set(names))


def test_what_users_write_is_escaped() -> None:
    epilogue = "where(acc < 0 and acc > -1e9, 0, acc)"
    found = gather(case("zen3_nvme", {**GEMM, "dtype": "fp32", "epilogue": epilogue}))
    page = html.render(found)
    assert "acc &lt; 0 and acc &gt; -1e9" in page and "acc < 0" not in page
    assert "acc \\< 0" in markdown.render(found)


@EVERY
def test_markdown_carries_the_same_numbers_and_its_pictures(device: str, name: str) -> None:
    found = report(device, name)
    page, pictures = markdown.render(found), markdown.pictures(found)
    assert all(f"]({file})" in page for file in pictures)
    assert all(sentence in page for sentence in (*found.verdict, *found.advice))
    for row in found.traffic:
        assert f"| {row.name} |" in page
    assert not re.search(r"\n{4,}", page)
    for picture in pictures.values():
        ElementTree.fromstring(picture)


def test_both_pages_name_every_level_tensor_and_rule() -> None:
    found = report("zen3_nvme", "attention")
    names = [lv.name for lv in found.levels] + [t.name for t in found.tensors] + [r.name for r in found.rules]
    for page in (html.render(found), markdown.render(found)):
        assert [n for n in names if n not in page] == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_sweep_of_few_sizes_is_drawn(count: int) -> None:
    whole = swept()
    assert whole.sweep is not None
    for width in (plots.WIDE, plots.NARROW):
        for picture in plots.sweep_plots(replace(whole.sweep, points=whole.sweep.points[:count]), width):
            found = ElementTree.fromstring(picture)
            assert (outside(found), overlapping(found)) == ([], [])


@EVERY
def test_sums_are_named_and_explained_once(device: str, name: str) -> None:
    found = report(device, name)
    for formulas, sums in (
        ([t.formula for t in found.closed_form], found.closed_form_sums),
        ([r.formula for r in found.rules], found.rule_sums),
    ):
        used = {n for f in formulas for n in re.findall(r"\bN\d+\b", f.text)}
        assert used == {s.name for s in sums}
        assert not any("Sum(" in f.text or "Piecewise" in f.text for f in formulas)
        assert all(s.formula.text.startswith("Sum(") for s in sums)
    for page in (rendered(device, name), markdown.render(found)):
        assert page.count("where ") >= len(found.closed_form_sums) + len(found.rule_sums)


def test_a_formula_with_its_sums_computed_by_hand_is_the_bound() -> None:
    found, called = report("a100", "attention"), case("a100", ATTENTION)
    assert [s.name for s in found.rule_sums] == ["N1", "N2"]
    by_hand = {  # of a causal mask with 512 queries and keys: rows that keep a key, and kept pairs
        "Sum(Min(1, Max(0, Min(Lk, Lk - Lq + row + 1))), (row, 0, Lq - 1))": 512,
        "Sum(Max(0, Min(Lk, Lk - Lq + i + 1)), (i, 0, Lq - 1))": sum(range(1, 513)),
    }
    known = {**called.sizes, "M": found.fast_bytes, "sqrt": math.sqrt, "floor": math.floor}
    known |= {s.name: by_hand[s.formula.text] for s in found.rule_sums}
    formulas = {b.rule: b.formula() for b in called.bounds}
    whole = {rule: f.subs({s: known[s.name] for s in f.free_symbols}).doit() for rule, f in formulas.items()}
    plain = [r for r in found.rules if ";" not in r.formula.text]
    assert len(plain) >= 4
    for rule in plain:
        assert eval(rule.formula.text, dict(known)) == pytest.approx(float(whole[rule.name])), rule.name
