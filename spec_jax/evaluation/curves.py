"""Plots of training runs: loss over tokens, held-out values marked."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import io

from matplotlib import ticker
import matplotlib.figure
import numpy as np

_INK, _LINE, _HELD = "#333333", "#0072B2", "#D55E00"
_SMOOTH = 0.9


def training_curves(logs: Mapping[str, Sequence[Mapping[str, float]]],
                    tokens_per_step: Mapping[str, int]) -> bytes:
  """A PNG with one panel per stage.

  Args:
    logs: rows of `training.loop.read_log` by stage.
    tokens_per_step: by stage.
  """
  figure = matplotlib.figure.Figure(
      figsize=(3.6 * len(logs), 3.0), dpi=130, layout="constrained")
  for axis, (stage, rows) in zip(
      figure.subplots(1, len(logs), squeeze=False)[0], logs.items()):
    scale = tokens_per_step[stage] / 1e6
    steps = np.asarray([row["step"] for row in rows]) * scale
    losses = np.asarray([row["loss"] for row in rows])
    axis.plot(steps, losses, color=_LINE, alpha=0.25, linewidth=0.8)
    axis.plot(steps, _smoothed(losses), color=_LINE, linewidth=1.6)
    _mark_heldout(axis, rows, scale)
    _name(axis, stage, "million tokens", "loss (a token)")
  return _png(figure)


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
  """Points, a line through them, and its band, `[n]` each; x rises."""

  title: str
  x_label: str
  y_label: str
  x: Sequence[float]
  y: Sequence[float]
  line: Sequence[float]
  low: Sequence[float]
  high: Sequence[float]


def laws(panels: Sequence[Law]) -> bytes:
  """A PNG with one panel per law, x on a logarithmic scale."""
  figure = matplotlib.figure.Figure(
      figsize=(4.2 * len(panels), 3.2), dpi=130, layout="constrained")
  for axis, law in zip(
      figure.subplots(1, len(panels), squeeze=False)[0], panels):
    axis.fill_between(law.x, law.low, law.high, color=_LINE, alpha=0.15,
                      linewidth=0)
    axis.plot(law.x, law.line, color=_LINE, linewidth=1.2)
    axis.plot(law.x, law.y, "o", color=_HELD, markersize=5)
    axis.set_xscale("log")
    axis.set_xticks(law.x)
    axis.xaxis.set_major_formatter(ticker.EngFormatter(places=1, sep=""))
    axis.xaxis.set_minor_locator(ticker.NullLocator())
    _name(axis, law.title, law.x_label, law.y_label)
  return _png(figure)


def over_size(lines: Mapping[str, Mapping[str, Sequence[tuple]]],
              x_label: str, y_labels: Sequence[str]) -> bytes:
  """A PNG: a row of panels for each heading, a panel for each measure.

  Args:
    lines: by heading and name: `(x, measure, measure, ...)`, x rising.
    x_label: of all; on a logarithmic scale.
    y_labels: of the measures.
  """
  figure = matplotlib.figure.Figure(
      figsize=(4.6 * len(y_labels), 3.2 * len(lines)), dpi=130,
      layout="constrained")
  axes = figure.subplots(len(lines), len(y_labels), squeeze=False)
  for row, (heading, found) in zip(axes, lines.items()):
    for place, (axis, y_label) in enumerate(zip(row, y_labels), 1):
      for name, points in found.items():
        axis.plot([p[0] for p in points], [p[place] for p in points],
                  marker="o", markersize=4, linewidth=1.2, label=name)
      axis.set_xscale("log", base=2)
      _name(axis, heading, x_label, y_label)
    row[0].legend(fontsize=7, frameon=False)
  return _png(figure)


def _name(axis, title, x_label, y_label):
  """The texts of a panel, and no frame."""
  axis.set_title(title, fontsize=10.5, color=_INK, loc="left")
  axis.set_xlabel(x_label, fontsize=9, color=_INK)
  axis.set_ylabel(y_label, fontsize=9, color=_INK)
  axis.spines[["top", "right"]].set_visible(False)


def _png(figure):
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", facecolor="white")
  return buffer.getvalue()


def _smoothed(values):
  """Exponential moving average that starts at the first value."""
  smooth, level = [], values[0]
  for value in values:
    level = _SMOOTH * level + (1 - _SMOOTH) * value
    smooth.append(level)
  return np.asarray(smooth)


def _mark_heldout(axis, rows, scale):
  held = [row for row in rows if "eval_bits_per_byte" in row]
  is_distilled = any("eval_acceptance" in row for row in held)
  if not held:
    return
  x = [row["step"] * scale for row in held]
  name = "acceptance" if is_distilled else "bits_per_byte"
  twin = axis.twinx()
  twin.plot(x, [row[f"eval_{name}"] for row in held], color=_HELD, marker="o",
            markersize=3, linewidth=1)
  twin.set_ylabel(f"held-out {name.replace('_', ' ')}", fontsize=9,
                  color=_HELD)
  twin.spines["top"].set_visible(False)
