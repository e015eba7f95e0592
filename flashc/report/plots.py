"""The plots of a report, each drawn for the width it is shown at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, StrMethodFormatter

from flashc.report import drawing, numbers
from flashc.report.drawing import BOUND, COLOUR, STYLES, Look, Scale, Style
from flashc.report.facts import Curves, Disk, Roofline, Series, Span, Sweep
from flashc.system import units

WIDE, NARROW = 860, 380
BAND = 34  # pixels of a band with its title
DIRECT = 500  # pixels from which lines are named where they are


class Band(NamedTuple):
    """Stretches of the x axis below a plot, each with its fill; ``ink``: the colour of their names."""

    title: str
    spans: Sequence[Span]
    fills: Sequence[str]
    ink: str


@drawing.styled()
def traffic_plot(curves: Curves, width: int) -> str:
    """Bytes moved against bytes of fast memory: the bound, each schedule's best, and who leads where."""
    styles = series_styles(curves.series)
    bands = [Band("the bound comes from", curves.rules, [COLOUR["band"]] * len(curves.rules), COLOUR["ink"])]
    if curves.leaders:
        fills = [styles[s.name].colour for s in curves.leaders]
        bands.append(Band("least traffic by", curves.leaders, fills, COLOUR["paper"]))
    height = 0.42 * width + 150
    figure = _figure(width, height + BAND * len(bands))
    grid = figure.add_gridspec(1 + len(bands), 1, height_ratios=[height, *[BAND / 2] * len(bands)])
    axes = figure.add_subplot(grid[0])
    lines = _lines(axes, curves.series, styles)
    star: Look = {"color": COLOUR["accent"], "marker": "*", "markersize": 12, "linestyle": "none", "zorder": 4}
    lines += axes.plot([curves.fast_bytes], [curves.chosen], label="as chosen for the device", **star)
    drawing.log_axes(axes, Scale("fast memory M", 4, _held()), Scale("bytes moved", 10, EngFormatter("B")))
    drawing.marks(axes, [(m.name, m.x) for m in curves.marks], accent=curves.fast_bytes)
    strips = [_strip(figure.add_subplot(grid[n], sharex=axes), band) for n, band in enumerate(bands, 1)]
    entries = _named(axes, curves.series, lines, width)
    drawing.laid_out(axes)
    keys: dict[str, str] = {}
    for strip, band in zip(strips, bands, strict=True):
        drawing.names_inside(strip, [(s.name, s.start, s.end) for s in band.spans], band.ink, keys)
    entries += [Patch(facecolor="none", label=f"{key}: {name}") for name, key in keys.items()]
    drawing.legend(figure, entries)
    title = "Bytes moved against the size of fast memory, both on logarithmic axes"
    return drawing.svg(figure, f"traffic{width}", title, _ends(curves.series, EngFormatter("B", 1)))


def series_styles(series: Sequence[Series]) -> dict[str, Style]:
    """The bound in ink, the others in turn."""
    others = [s.name for s in series if s.kind != "bound"]
    found = {s.name: BOUND for s in series if s.kind == "bound"}
    return {**found, **dict(zip(others, itertools.cycle(STYLES)))}


@drawing.styled()
def roofline_plot(roofline: Roofline, width: int) -> str:
    """FLOP/s against FLOP per byte: one roof per level, a filled sign for the schedule, a hollow one for the bound."""
    figure = _figure(width, 0.36 * width + 130)
    axes = figure.add_subplot()
    ridges = {r: roofline.peak / (r.bandwidth_gbs * 1e9) for r in roofline.roofs}
    intensities = [roofline.flops / b for r in roofline.roofs for b in (r.bound, r.moved) if b]
    low, high = min([*intensities, *ridges.values()]) / 3, max([*intensities, *ridges.values()]) * 3
    names = {r: f"{r.name} {numbers.bandwidth(r.bandwidth_gbs)}" for r in roofline.roofs}
    lines = {}
    for (roof, ridge), style in zip(ridges.items(), itertools.cycle(STYLES)):
        look = {**_look(style, names[roof]), "marker": ""}
        lines[roof] = axes.plot([low, ridge], [roofline.peak * low / ridge, roofline.peak], **look)[0]
        for moved, fill in ((roof.bound, COLOUR["paper"]), (roof.moved, style.colour)):
            if moved:
                axes.plot([roofline.flops / moved], [roofline.attained], **_sign(style.marker, style.colour, fill))
    axes.plot([min(ridges.values()), high], [roofline.peak] * 2, color=COLOUR["ink"])
    axes.margins(y=0.12)
    across = Scale("FLOP per byte across the level", 10, StrMethodFormatter("{x:g}"))
    drawing.log_axes(axes, across, Scale("FLOP/s", 10, EngFormatter()))
    peak = f"{roofline.dtype} peak {numbers.rate(roofline.peak)}"
    axes.annotate(peak, (high, roofline.peak), (-6, 4), textcoords="offset points", ha="right")
    drawing.laid_out(axes)
    for roof, line in list(lines.items()):
        start, end = (low, roofline.peak * low / ridges[roof]), (ridges[roof], roofline.peak)
        if width >= DIRECT and drawing.along(axes, start, end, names[roof], str(line.get_color())):
            del lines[roof]
    signs = {"schedule, at its predicted speed": COLOUR["ink"], "same speed, least traffic": COLOUR["paper"]}
    explained = [Line2D([], [], label=text, **_sign("o", COLOUR["ink"], fill)) for text, fill in signs.items()]
    drawing.legend(figure, [*lines.values(), *explained])
    title = "Roofline: operations per second against operations per byte, one roof per memory level"
    shown = f"{'; '.join(names.values())}; {peak}; attained {numbers.rate(roofline.attained)}"
    return drawing.svg(figure, f"roofline{width}", title, shown)


@drawing.styled()
def disk_plot(disk: Disk, width: int) -> str:
    """GB/s of a disk against the length of contiguous requests, with the run of every tensor on the curve."""
    figure = _figure(width, 0.24 * width + 130)
    axes = figure.add_subplot()
    axes.plot([x for x, _ in disk.curve], [y * 1e9 for _, y in disk.curve], color=COLOUR["c1"])
    places: dict[int, list[str]] = {}
    for request in disk.requests:
        places.setdefault(request.chunk_bytes, []).append(request.tensor)
        sign = _sign("o", COLOUR["c1"], COLOUR["c1"])
        axes.plot([request.chunk_bytes], [request.throughput_gbs * 1e9], **sign)
    across = Scale("contiguous bytes per request", 4, _held())
    drawing.log_axes(axes, across, Scale(f"{disk.name} throughput", 10, EngFormatter("B/s")))
    drawing.marks(axes, [(", ".join(names), float(run)) for run, names in places.items()])
    runs = (f"{r.tensor} {numbers.held(r.chunk_bytes)}: {numbers.bandwidth(r.throughput_gbs)}" for r in disk.requests)
    title = "Disk throughput against the length of contiguous requests"
    return drawing.svg(figure, f"disk{width}", title, "; ".join(runs))


def sweep_plots(sweep: Sweep, width: int) -> tuple[str, str]:
    """Traffic and time against the swept key."""
    moved = (
        Series("lower bound", "bound", tuple((p.value, p.bound) for p in sweep.points)),
        Series("chosen schedule", "chosen", tuple((p.value, p.moved) for p in sweep.points)),
    )
    time = (
        Series("least time", "bound", tuple((p.value, p.least_seconds) for p in sweep.points)),
        Series("predicted time", "chosen", tuple((p.value, p.seconds) for p in sweep.points)),
    )
    return _growth(sweep.key, moved, "bytes moved", "B", width), _growth(sweep.key, time, "time", "s", width)


@drawing.styled()
def _growth(key: str, series: Sequence[Series], title: str, unit: str, width: int) -> str:
    figure = _figure(width, 0.3 * width + 110)
    axes = figure.add_subplot()
    lines = _lines(axes, series, series_styles(series))
    across = Scale(key, 2, StrMethodFormatter("{x:.0f}"))
    drawing.log_axes(axes, across, Scale(title, 10, EngFormatter(unit)))
    drawing.legend(figure, _named(axes, series, lines, width))
    name = f"sweep-{title.replace(' ', '-')}{width}"
    shown = _ends(series, EngFormatter(unit, 1))
    return drawing.svg(figure, name, f"{title} against {key}, both on logarithmic axes", shown)


# -- parts of a plot


def _figure(width: int, height: float) -> Figure:
    return Figure((width / 72, height / 72))


def _held() -> Formatter:
    """`4 KiB` for 4096, where the unit's own three digits are `4.00 KiB`."""
    return FuncFormatter(lambda count, _place: "{:g} {}".format(*_split(units.capacity(count))))


def _split(text: str) -> tuple[float, str]:
    number, unit = text.split()
    return float(number), unit


def _look(style: Style, label: str) -> Look:
    return {"color": style.colour, "linestyle": style.dashes, "marker": style.marker, "label": label}


def _sign(marker: str, colour: str, fill: str) -> Look:
    look: Look = {"marker": marker, "markersize": 8, "color": colour, "markerfacecolor": fill}
    return {**look, "linestyle": "none", "zorder": 4}


def _lines(axes: Axes, series: Sequence[Series], styles: dict[str, Style]) -> list[Line2D]:
    """The first one on top."""
    found = []
    for depth, one in enumerate(series):
        look = {**_look(styles[one.name], one.name), "linewidth": 3 if one.kind == "bound" else 1.8}
        found += axes.plot(*zip(*one.points, strict=True), zorder=3 - depth / len(series), clip_on=False, **look)
    return found


def _named(axes: Axes, series: Sequence[Series], lines: list[Line2D], width: int) -> list[Artist]:
    """Name the lines where they end, if the plot is wide enough for that; what is left for a legend."""
    if width < DIRECT:
        return [*lines]
    ends = [(s.name, s.points[-1][1], str(line.get_color())) for s, line in zip(series, lines, strict=False)]
    drawing.end_labels(axes, ends)
    return [*lines[len(series) :]]


def _strip(axes: Axes, band: Band) -> Axes:
    axes.axis("off")
    axes.set_title(band.title, loc="left")
    for span, fill in zip(band.spans, band.fills, strict=True):
        axes.axvspan(span.start, span.end, facecolor=fill, edgecolor=COLOUR["paper"], linewidth=1)
    return axes


def _ends(series: Sequence[Series], form: Formatter) -> str:
    """What a plot shows, for those who cannot see it."""
    return "; ".join(f"{s.name}: from {form(s.points[0][1])} to {form(s.points[-1][1])}" for s in series)
