"""The two charts of a report, by matplotlib (imported where used). No product name is drawn into them: names may be in any
script, so the page writes them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GOOD, DEFECT = "#1d2733", "#8a94a0", "#3d7ea6", "#d1495b"
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "white",
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.8,
    "grid.linestyle": "-",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "patch.linewidth": 0.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": "figure",
    "savefig.bbox": None,
}


def pr_curve(
    precision: NDArray[Any], recall: NDArray[Any], thresholds: NDArray[Any] | None = None, cut: float | None = None
) -> bytes:
    """PNG of the precision-recall curve, the oracle's point marked, and the cut's where ``thresholds`` are given.

    Args:
        precision, recall, thresholds: (T,) each, in one order (``PixelRanking.curve``).
        cut: the label-free cut on the scale of ``thresholds``.
    """
    oracle = int(np.argmax(precision + recall))
    with _chart() as (buffer, axes):
        axes.plot(recall, precision, color=GOOD, linewidth=2)
        axes.fill_between(recall, precision, color=GOOD, alpha=0.08, linewidth=0)
        marks = [(oracle, "o", DEFECT, "oracle threshold (needs labels)")]
        if thresholds is not None and cut is not None and (thresholds > cut).any():
            drawn = np.flatnonzero(thresholds > cut)
            marks.append((int(drawn[np.argmin(thresholds[drawn])]), "D", INK, "the model's own cut"))
        for place, marker, colour, name in marks:
            axes.plot(recall[place], precision[place], marker, color=colour, markersize=8, label=name, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="precision", xlabel="recall: share of anomalous pixels found")
        axes.legend(loc="best")
    return buffer.getvalue()


def histogram(good: NDArray[Any], defective: NDArray[Any], cut: float | None) -> bytes:
    """PNG of how many good and defective photos have which score, the cut as a line.

    With a cut above 0 the scores are put on the scale where 0.5 is the cut (``inference.result.pred_score``).
    """
    line = cut if cut is not None and np.isfinite(cut) else None
    parts = [np.asarray(good, dtype=np.float64), np.asarray(defective, dtype=np.float64)]
    on_scale = line is not None and line > 0
    if line is not None and line > 0:
        parts = [np.maximum(part, 0) / (np.maximum(part, 0) + line) for part in parts]
        line = 0.5
    ends = np.concatenate([*parts, [] if line is None else [line]])
    low, high = (float(ends.min()), float(ends.max())) if len(ends) else (0.0, 1.0)
    step = (high - low) / 36 or 0.01
    edge = low if line is None else line  # bins (a, b]: a bin's edge lies on the cut, and a score at the cut passes
    bins = edge + step * (1e-6 + np.arange(np.floor((low - edge) / step) - 1, np.ceil((high - edge) / step) + 2))
    with _chart() as (buffer, axes):
        for part, colour, name in zip(parts, (GOOD, DEFECT), ("good", "defective"), strict=True):
            if len(part):
                axes.hist(
                    part, bins=bins.tolist(), color=colour, alpha=0.7, label=f"{name} ({len(part)})", edgecolor="white"
                )
        if line is not None:
            axes.axvline(line, color=INK, linewidth=1.8, linestyle="--", label="the model's own cut")
        axes.set(xlabel="score of a photo (0.5 = the cut)" if on_scale else "score of a photo", ylabel="photos")
        axes.locator_params(axis="y", integer=True)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    return buffer.getvalue()


@contextlib.contextmanager
def _chart() -> Iterator[tuple[io.BytesIO, Axes]]:
    """Give (buffer, axes); when the block ends the chart is in the buffer as PNG. A user's matplotlibrc has no say."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        yield buffer, axes
        figure.savefig(buffer, format="png")
