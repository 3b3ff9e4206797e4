"""Plots of a comparison: speed-up, block efficiency, acceptance by depth."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import io

import matplotlib.figure
import matplotlib.ticker

# Okabe and Ito's palette: told apart by readers with any colour vision.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
            "#8A6D3B", "#000000")
_MARKERS = "osD^vPX*"
_INK, _GRID = "#333333", "#DDDDDD"


@dataclasses.dataclass(frozen=True)
class Bar:
  """One system of one comparison.

  Attributes:
    name: of the system.
    speedup: median; the baseline's is 1.
    low: first quartile.
    high: third quartile.
    predicted: from the measured forward costs; None if not known.
    block_efficiency: tokens per target call.
    conditional_by_depth: acceptance at depth 1, 2, ..., given it was reached.
  """

  name: str
  speedup: float
  low: float
  high: float
  predicted: float | None
  block_efficiency: float
  conditional_by_depth: tuple[float, ...]


def comparison(groups: Sequence[tuple[str, Sequence[Bar]]], title: str
               ) -> bytes:
  """A PNG with one row of three panels per group.

  Args:
    groups: heading (such as "temperature 0.8") and bars.
    title: of the figure.
  """
  longest = max((len(bars) for _, bars in groups), default=1)
  height = 1.5 + 0.34 * max(longest, 5)
  figure = matplotlib.figure.Figure(
      figsize=(13.5, 0.7 + height * max(1, len(groups))), dpi=130,
      layout="constrained")
  figure.suptitle(title, fontsize=13, color=_INK, fontweight="bold")
  axes = figure.subplots(
      max(1, len(groups)), 3, squeeze=False,
      gridspec_kw={"width_ratios": (1.35, 1, 1.25)})
  names = dict.fromkeys(bar.name for _, bars in groups for bar in bars
                        if bar.conditional_by_depth)
  styles = {name: {"color": _COLOURS[i % len(_COLOURS)],
                   "marker": _MARKERS[i // len(_COLOURS) % len(_MARKERS)]}
            for i, name in enumerate(names)}
  for row, (heading, bars) in zip(axes, groups):
    bars = sorted(bars, key=lambda bar: bar.speedup)
    _speedups(row[0], bars, heading)
    _block_efficiencies(row[1], bars)
    _depths(row[2], bars, styles)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", facecolor="white")
  return buffer.getvalue()


def _style(axis, title, is_horizontal=True):
  axis.set_title(title, fontsize=10.5, color=_INK, loc="left")
  axis.spines[["top", "right"]].set_visible(False)
  axis.tick_params(colors=_INK, labelsize=9)
  axis.grid(axis="x" if is_horizontal else "y", color=_GRID, linewidth=0.8)
  axis.set_axisbelow(True)


def _set_slots(axis, num_bars):
  """Few bars stay as thin as many."""
  slack = max(0, 5 - num_bars) / 2
  axis.set_ylim(-0.6 - slack, num_bars - 0.4 + slack)


def _speedups(axis, bars, heading):
  values = [bar.speedup for bar in bars]
  errors = [[max(0, bar.speedup - bar.low) for bar in bars],
            [max(0, bar.high - bar.speedup) for bar in bars]]
  slots = range(len(bars))
  axis.barh(slots, values, height=0.66, color=_COLOURS[0], xerr=errors,
            error_kw={"ecolor": _INK, "capsize": 2.5, "linewidth": 1},
            label="measured (median, quartiles)")
  known = [i for i in slots if bars[i].predicted is not None]
  axis.plot([bars[i].predicted for i in known], known, "D", color=_COLOURS[1],
            markeredgecolor=_INK, markeredgewidth=0.7, markersize=6,
            label="predicted from forward costs", linestyle="none")
  axis.axvline(1, color=_INK, linewidth=1, linestyle="--")
  axis.set_yticks(list(slots), [bar.name for bar in bars])
  for i, bar in enumerate(bars):
    # At the foot of the bar: at its end it would read as the marker's value.
    axis.annotate(f"{bar.speedup:.2f}x", (0, i), xytext=(5, 0),
                  textcoords="offset points", va="center", fontsize=8.5,
                  color="white", fontweight="bold")
  ends = [max(bar.high, bar.predicted or 0) for bar in bars]
  axis.set_xlim(0, 1.08 * max(ends + [1.0]))
  _set_slots(axis, len(bars))
  _style(axis, heading)
  axis.set_xlabel("speed-up over autoregressive", fontsize=9, color=_INK)
  axis.legend(fontsize=8, loc="lower right", framealpha=0.95)


def _block_efficiencies(axis, bars):
  slots = range(len(bars))
  values = [bar.block_efficiency for bar in bars]
  axis.barh(slots, values, height=0.66, color=_COLOURS[2])
  for i, value in enumerate(values):
    axis.annotate(f"{value:.2f}", (value, i), xytext=(4, 0), fontsize=8.5,
                  textcoords="offset points", va="center", color=_INK)
  axis.set_yticks([])
  axis.set_xlim(0, 1.15 * max(values + [1.0]))
  _set_slots(axis, len(bars))
  _style(axis, "tokens per target call")


def _depths(axis, bars, styles):
  """Lines, best system first, so that the legend reads like the bars."""
  drawn = [bar for bar in reversed(bars) if bar.conditional_by_depth]
  for bar in drawn:
    depths = range(1, len(bar.conditional_by_depth) + 1)
    axis.plot(depths, bar.conditional_by_depth, label=bar.name, linewidth=1.4,
              markersize=4.5, markeredgecolor="white", markeredgewidth=0.5,
              **styles[bar.name])
  axis.set_ylim(0, 1.04)
  axis.xaxis.set_major_locator(
      matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
  axis.set_xlabel("depth", fontsize=9, color=_INK)
  _style(axis, "acceptance by depth, given that it is reached", False)
  if drawn:
    axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5),
                frameon=False)


def acceptance_curves(
    groups: Sequence[tuple[str, Mapping[str, Mapping[str, tuple]]]]) -> bytes:
  """A PNG: acceptance over the number of drafts, a panel per draw.

  Args:
    groups: heading and, by draw, lines by name: (numbers of drafts, values).
      The line named "optimum" is drawn as the ceiling.
  """
  width = max(len(panels) for _, panels in groups)
  figure = matplotlib.figure.Figure(
      figsize=(4.6 * width, 3.6 * len(groups)), dpi=130, layout="constrained")
  names = dict.fromkeys(
      name for _, panels in groups for lines in panels.values()
      for name in sorted(lines) if name != "optimum")
  styles = {name: {"color": _COLOURS[i % len(_COLOURS)],
                   "marker": _MARKERS[i % len(_MARKERS)]}
            for i, name in enumerate(names)}
  axes = figure.subplots(len(groups), width, squeeze=False)
  for row, (heading, panels) in zip(axes, groups):
    for axis, (draw, lines) in zip(row, panels.items()):
      _curves(axis, f"{heading}: {draw.replace('_', ' ')}", lines, styles)
    for axis in row[len(panels):]:
      axis.set_axis_off()
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", facecolor="white")
  return buffer.getvalue()


def _curves(axis, title, lines, styles):
  for name, (counts, values) in lines.items():
    if name != "optimum":
      axis.plot(counts, values, label=name, linewidth=1.2, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.5, **styles[name])
  counts, values = lines["optimum"]
  axis.plot(counts, values, color=_INK, linestyle="--", linewidth=1.4,
            label="optimum")
  axis.set_xticks(sorted({c for counts, _ in lines.values() for c in counts}))
  axis.set_xlabel("drafts", fontsize=9, color=_INK)
  axis.set_ylabel("acceptance", fontsize=9, color=_INK)
  _style(axis, title, False)
  axis.legend(fontsize=7, loc="lower right", framealpha=0.9)
