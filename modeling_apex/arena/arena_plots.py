"""
Plots of the arena experiment, as PNG and SVG: ROC, calibration, leaderboard against human, effect of aesthetics.

What comes in are the results of the experiment; what leaves are files. A plot whose numbers the table could not give
is not drawn.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROC_PROTOCOL = "leave_one_system_out"


def save_plots(results: dict[str, Any], directory: str | Path) -> list[Path]:
    """
    Draw the plots.

    Args:
        results (`dict`): Results of `run_arena`, with its margins.
        directory (`str` or `Path`): Folder to write into.

    Returns:
        `list[Path]`: The files, a PNG and an SVG a plot.

    Raises:
        `ImportError`: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "apex-music[eval]".') from error
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
        "roc": _draw_roc,
        "calibration": _draw_calibration,
        "leaderboard": _draw_leaderboard,
        "aesthetics_effect": _draw_aesthetics_effect,
    }
    saved = []
    for name, draw in plots.items():
        figure = Figure(figsize=(7.0, 5.0), layout="constrained")
        if not draw(figure.subplots(), results):
            continue
        # A fixed salt and no date: the same results give the same bytes.
        with rc_context({"svg.hashsalt": "apex-music", "svg.fonttype": "none"}):
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                path = folder / f"{name}.{suffix}"
                figure.savefig(path, dpi=150, metadata=metadata)
                saved.append(path)
    return saved


def _draw_roc(axes: Any, results: dict[str, Any]) -> bool:
    from sklearn.metrics import roc_curve

    available = [name for name, found in results["protocols"].items() if found.get("margins")]
    available = [name for name in available if name != "within_system_pairs"]
    if not available:
        return False
    protocol = ROC_PROTOCOL if ROC_PROTOCOL in available else available[0]
    for name, found in results["protocols"][protocol]["margins"].items():
        margins, outcomes = np.array(found["margins"]), np.array(found["outcomes"])
        is_decisive = outcomes != 0.5
        x, y, _ = roc_curve(outcomes[is_decisive], margins[is_decisive], drop_intermediate=False)
        style = "-" if "aesthetics" in name else "--"
        axes.plot(x, y, style, linewidth=1.2, label=name.replace("_", " "))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="coin")
    axes.set(xlabel="A predicted, B won", ylabel="A predicted, A won", title=f"ROC, {protocol.replace('_', ' ')}")
    axes.legend(fontsize=6)
    return True


def _draw_calibration(axes: Any, results: dict[str, Any]) -> bool:
    if "unavailable" in results["preference_head"]:
        return False
    training = results["preference_head"]["training"]
    bins = training["calibration_bins"]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.scatter(
        [b["predicted"] for b in bins], [b["observed"] for b in bins], [1500 * b["weight"] for b in bins], alpha=0.7
    )
    axes.set(
        xlabel="predicted chance that A wins (held-out battles)",
        ylabel="share of battles that A won",
        title=f"Preference head, expected calibration error {training['expected_calibration_error']:.3f}",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    return True


def _draw_leaderboard(axes: Any, results: dict[str, Any]) -> bool:
    board = results["leaderboards"]["all"]
    if not board or not board["systems"]:
        return False
    predictors = list(board["rank_correlations"])
    human = [entry["human"] for entry in board["systems"]]
    names = [entry["system"] for entry in board["systems"]]
    center = np.array([h["estimate"] for h in human])
    spread = np.abs(np.array([[h["low"], h["high"]] for h in human], dtype=float).T - center)
    if not predictors:
        axes.errorbar(center, names, xerr=spread, fmt="o")
        axes.invert_yaxis()
        axes.set(xlabel="arena score by human votes", title="Leaderboard")
        return True
    chosen = predictors[-1]
    predicted = np.array([entry[chosen]["estimate"] for entry in board["systems"]])
    axes.errorbar(center, predicted, xerr=spread, fmt="o", elinewidth=0.7)
    for name, x, y in zip(names, center, predicted, strict=True):
        axes.annotate(name, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(
        xlabel="arena score by human votes",
        ylabel=f"arena score by predicted votes\n({chosen.replace('_', ' ')})",
        title="Leaderboard against human",
    )
    return True


def _draw_aesthetics_effect(axes: Any, results: dict[str, Any]) -> bool:
    rows = [row for row in results["aesthetics_effect"]["rows"] if row["low"] is not None]
    if not rows:
        return False
    labels = [f"{row['classifier']}\n{row['protocol']}".replace("_", " ") for row in rows]
    center = np.array([row["estimate"] for row in rows])
    spread = np.abs(np.array([[row["low"], row["high"]] for row in rows]).T - center)
    axes.errorbar(center, np.arange(len(rows)), xerr=spread, fmt="o", markersize=4, elinewidth=1.0)
    axes.axvline(0.0, color="grey", linewidth=0.8)
    axes.set_yticks(np.arange(len(rows)), labels, fontsize=5)
    axes.invert_yaxis()
    axes.set(xlabel="AUC with minus without aesthetics (95 % interval)", title="Effect of aesthetics")
    return True
