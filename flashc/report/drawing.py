"""What the report's plots are drawn with: matplotlib, and labels that keep apart; written as SVG in the page's colours.

Artists get stand-in colours, which become CSS variables (templates/colours.css), so that one picture serves light and
dark pages. One pixel of a picture is one point, as templates/report.mplstyle sets it.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import resources
from string import ascii_lowercase
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import Formatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

VARIABLES = ("ink", "soft", "hair", "paper", "accent", "band", "c1", "c2", "c3", "c4", "c5", "c6")
COLOUR = {name: f"#0000{n:02x}" for n, name in enumerate(VARIABLES, 1)}  # black itself is left out of an SVG
LANE = 14  # pixels from one row of labels to the next
TICK_WIDTH, TICK_HEIGHT = 62, 28  # pixels for a label of a tick and the space around it

Point = tuple[float, float]
Look = dict[str, Any]  # properties of an artist


class Style(NamedTuple):
    """How one of several lines differs from the others, for eyes that see colour and for those that do not."""

    colour: str
    dashes: str | tuple[int, tuple[int, ...]]
    marker: str


BOUND = Style(COLOUR["ink"], "solid", "")
STYLES = (
    Style(COLOUR["c1"], "solid", "o"),
    Style(COLOUR["c2"], (0, (7, 3)), "s"),
    Style(COLOUR["c3"], (0, (2, 2)), "^"),
    Style(COLOUR["c4"], (0, (9, 3, 2, 3)), "D"),
    Style(COLOUR["c5"], (0, (4, 4)), "v"),
    Style(COLOUR["c6"], (0, (12, 4)), "P"),
)


class Scale(NamedTuple):
    """Of a logarithmic axis: its title, ticks at powers of ``base``, and what is written beside them."""

    title: str
    base: int
    form: Formatter


@contextmanager
def styled() -> Iterator[None]:
    """The report's style, whatever the user has set."""
    file = resources.files("flashc.report").joinpath("templates").joinpath("report.mplstyle")
    with resources.as_file(file) as path, matplotlib.style.context(path, after_reset=True):
        yield


def log_axes(axes: Axes, across: Scale, upward: Scale) -> None:
    """Logarithmic axes around what is drawn, with as many ticks as keep their labels apart."""
    axes.set(xscale="log", yscale="log", xlabel=across.title, ylabel=upward.title)
    size = axes.get_window_extent()
    for axis, scale, room in (
        (axes.xaxis, across, size.width / TICK_WIDTH),
        (axes.yaxis, upward, size.height / TICK_HEIGHT),
    ):
        low, high = axis.get_view_interval()
        finer = LogLocator(10, subs=(1, 2, 5), numticks=max(2, int(room)))
        between = [t for t in finer.tick_values(low, high) if low <= t <= high]
        fits = scale.base == 10 and 0 < len(between) <= room
        axis.set_major_locator(finer if fits else LogLocator(scale.base, numticks=max(2, int(room))))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(scale.form)


def marks(axes: Axes, named: Sequence[tuple[str, float]], accent: float | None = None) -> None:
    """Vertical lines with their names above the frame, in as few rows as keep them apart; one may be accented."""
    texts: list[Annotation] = []
    for name, x in sorted(named, key=lambda mark: mark[1]):
        here = x == accent
        colour = COLOUR["accent" if here else "soft"]
        axes.axvline(x, color=colour, linewidth=1.2, linestyle="solid" if here else (0, (2, 3)), zorder=1)
        place: Look = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": "center"}
        texts.append(axes.annotate(name, (x, 1.0), (0, 0), color=colour, weight="bold" if here else "normal", **place))
    for lanes in range(1, len(texts) + 1):
        for n, text in enumerate(texts):
            text.set_position((0, 4 + LANE * (n % lanes)))
        laid_out(axes)
        boxes = [text.get_window_extent() for text in texts]
        if not any(Bbox.intersection(a, b) for a, b in itertools.combinations(boxes, 2)):
            return


def end_labels(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """(name, height, colour) of lines, written right of the frame, moved apart where lines end close together."""
    laid_out(axes)
    above = -math.inf
    for name, height, colour in sorted(ends, key=lambda end: end[1]):
        at = float(axes.transData.transform((1.0, height))[1])
        above = max(at, above + LANE)
        place: Look = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
        axes.annotate(name, (1.0, height), (7, above - at), color=colour, **place)


def names_inside(axes: Axes, spans: Sequence[tuple[str, float, float]], colour: str, keys: dict[str, str]) -> None:
    """(name, from, to) written into stretches of a laid out x axis; where one is too long, a letter from ``keys``."""
    for name, start, end in spans:
        left, right = axes.transData.transform([(start, 0.5), (end, 0.5)])[:, 0]
        place: Look = {"xycoords": axes.get_xaxis_transform(), "ha": "center", "va": "center_baseline"}
        text = axes.annotate(name, (math.sqrt(start * end), 0.5), color=colour, size=10.5, in_layout=False, **place)
        if text.get_window_extent().width > right - left - 6:
            text.set_text(keys.get(name, ascii_lowercase[len(keys)]))
            if text.get_window_extent().width > right - left:
                text.remove()
            else:
                keys[name] = text.get_text()


def along(axes: Axes, start: Point, end: Point, text: str, colour: str) -> bool:
    """Text on a straight line of the laid out axes, from ``start`` on; False, and no text, where there is no room."""
    across, up = axes.transData.transform(end) - axes.transData.transform(start)
    turn, gap = math.atan2(up, across), 12.0
    offset = (gap * math.cos(turn) - 5 * math.sin(turn), gap * math.sin(turn) + 5 * math.cos(turn))
    others = [other.get_window_extent() for other in axes.texts]
    label = axes.annotate(text, start, offset, textcoords="offset points", color=colour, in_layout=False)
    fits = math.hypot(across, up) > label.get_window_extent().width + gap
    label.set(rotation=math.degrees(turn), rotation_mode="anchor")
    if fits and not any(Bbox.intersection(label.get_window_extent(), other) for other in others):
        return True
    label.remove()
    return False


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Added below the axes, which keep their size, in as many columns as fit the figure's width."""
    for columns in range(len(handles), 0, -1):
        found = figure.legend(handles=list(handles), loc="outside lower left", ncols=columns)
        size = found.get_window_extent()
        if size.width <= figure.bbox.width - 8 or columns == 1:
            figure.set_figheight(figure.get_figheight() + (size.height + 12) / figure.dpi)
            return
        found.remove()


def laid_out(axes: Axes) -> None:
    """Give every artist its place, so that it can be measured."""
    assert isinstance(axes.figure, Figure)
    axes.figure.draw_without_rendering()


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as one <svg> element; ``name`` is unique on the page and begins every id in the picture."""
    written = io.StringIO()
    figure.savefig(written, format="svg")
    body = written.getvalue().partition('<g id="figure_1">')[2]
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", re.sub(r"\s*\n\s*", " ", body)).strip()
    for variable, colour in COLOUR.items():
        body = body.replace(colour, f"var(--{variable})")
    width, height = figure.bbox.size
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc><g>{body}'
    )
