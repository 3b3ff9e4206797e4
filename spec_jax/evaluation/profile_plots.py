"""Plots of a round's time and of where speculation breaks even."""

from collections.abc import Mapping
from collections.abc import Sequence
import io

import matplotlib.figure
import matplotlib.ticker
import numpy as np

_COLOURS = {"draft": "#E69F00", "target": "#0072B2", "verify": "#009E73",
            "commit": "#CC79A7", "update": "#56B4E9",
            "bookkeeping": "#8A6D3B"}
_INK, _GRID = "#333333", "#DDDDDD"


def rounds(groups: Sequence[tuple[str, Mapping[str, Mapping]]], title: str
           ) -> bytes:
  """A PNG: a bar of stages per system, a panel per group.

  Args:
    groups: heading and, by system, what `stages.Profile.as_dict` gives.
    title: of the figure.
  """
  longest = max(len(rows) for _, rows in groups)
  figure = matplotlib.figure.Figure(
      figsize=(9.5, (1.2 + 0.42 * longest) * len(groups) + 0.6), dpi=130,
      layout="constrained")
  figure.suptitle(title, fontsize=12, color=_INK, fontweight="bold")
  axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
  for axis, (heading, rows) in zip(axes, groups):
    names = list(reversed(rows))
    left = np.zeros(len(names))
    for stage, colour in _COLOURS.items():
      widths = np.array([1e3 * rows[n]["stages"][stage] for n in names])
      axis.barh(range(len(names)), widths, 0.66, left, color=colour,
                label=stage)
      left += widths
    mark = lambda key, style, label, axis=axis, rows=rows, names=names: (
        axis.plot([1e3 * rows[n][key] for n in names], range(len(names)),
                  style, color=_INK, markerfacecolor="white", markersize=6,
                  label=label, linestyle="none"))
    mark("predicted", "D", "forwards alone")
    mark("in_turn", "|", "forwards in turn")
    mark("measured", "o", "round, measured")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(heading, fontsize=10, loc="left", color=_INK)
    axis.set_xlim(left=0)
    axis.grid(axis="x", color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
  axes[-1].set_xlabel("milliseconds of a round", fontsize=9, color=_INK)
  axes[0].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5),
                 frameon=False)
  return _png(figure)


def break_even(panels: Mapping[int, np.ndarray], depths: Sequence[int],
               acceptances: Sequence[float],
               points: Mapping[int, Mapping[str, tuple[int, float]]]) -> bytes:
  """A PNG: predicted speed-up over depth and acceptance, a panel per batch.

  Args:
    panels: by batch, speed-ups `f[acceptances, depths]`.
    depths: drafts of a chain.
    acceptances: probability that a draft is kept once it is reached.
    points: by batch, measured systems: depth and acceptance.
  """
  figure = matplotlib.figure.Figure(
      figsize=(1.0 + 3.6 * len(panels), 3.7), dpi=130, layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  most = max(2.0, *(float(values.max()) for values in panels.values()))
  levels = np.linspace(0, most, 21)
  for axis, (batch, values) in zip(axes, panels.items()):
    shades = axis.contourf(depths, acceptances, values, levels, cmap="viridis")
    if values.min() < 1 < values.max():
      line = axis.contour(depths, acceptances, values, [1.0], colors="white",
                          linewidths=2.2)
      axis.clabel(line, fmt={1.0: "break even"}, fontsize=8)
    for name, (depth, acceptance) in points.get(batch, {}).items():
      axis.plot(depth, acceptance, "o", color="white", markeredgecolor=_INK)
      is_left = 2 * depth < depths[0] + depths[-1]
      axis.annotate(name, (depth, acceptance), fontsize=7.5, color="white",
                    xytext=(6 if is_left else -6, 6),
                    textcoords="offset points",
                    ha="left" if is_left else "right")
    axis.set_title(f"batch {batch}", fontsize=10, loc="left", color=_INK)
    axis.set_xlabel("drafts a round", fontsize=9, color=_INK)
    axis.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(integer=True))
  axes[0].set_ylabel("acceptance", fontsize=9, color=_INK)
  figure.colorbar(shades, ax=list(axes), label="predicted speed-up")
  return _png(figure)


def curves(panels: Sequence[tuple[str, str, Mapping[str, tuple]]], title: str
           ) -> bytes:
  """A PNG: tokens per second over a size, both axes logarithmic.

  Args:
    panels: heading, label of the size, and lines by name: (sizes, values).
    title: of the figure.
  """
  figure = matplotlib.figure.Figure(
      figsize=(3.9 * len(panels), 3.7), dpi=130, layout="constrained")
  figure.suptitle(title, fontsize=12, color=_INK, fontweight="bold")
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  colours, markers = list(_COLOURS.values()), "osD^vP"
  for axis, (heading, label, lines) in zip(axes, panels):
    for i, (name, (sizes, values)) in enumerate(lines.items()):
      axis.plot(sizes, values, label=name, linewidth=1.4, markersize=4.5,
                color=colours[i % len(colours)],
                marker=markers[i % len(markers)])
    sizes = sorted({s for sizes, _ in lines.values() for s in sizes})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=7.5)
    axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(
        base=2, subs=(1.0, 1.5)))
    axis.minorticks_off()
    axis.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(
        lambda value, _: f"{value:,.0f}"))
    axis.set_title(heading, fontsize=10, loc="left", color=_INK)
    axis.set_xlabel(label, fontsize=9, color=_INK)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.legend(fontsize=7, framealpha=0.9)
  axes[0].set_ylabel("tokens per second", fontsize=9, color=_INK)
  return _png(figure)


def _png(figure):
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", facecolor="white")
  return buffer.getvalue()
