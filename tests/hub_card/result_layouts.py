"""Result files in the layouts of evaluation and of apex-tiny; the numbers are made up to be recognised."""

from typing import Any


def make_estimate(value: float, width: float = 0.1) -> dict[str, float]:
    """A number with an interval around it."""
    return {"value": value, "low": value - width, "high": value + width}


def make_recipe_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout that apex-tiny's recipe writes."""
    scores = {
        name: {
            "num_songs": 100 + position,
            "spearman": make_estimate(0.61 + position / 100),
            "spearman_ceiling": 0.9,
            "pearson": make_estimate(0.63),
            "mse": make_estimate(0.41),
            "mae": make_estimate(0.5),
            "baselines": {"mean": {"mse": 0.8, "mae": 0.75}, "median": {"mse": 0.85, "mae": 0.7}},
            "target": 0.5,
            "is_target_met": True,
        }
        for position, name in enumerate(head_names)
    }
    training = {"num_parameters": 1, "num_songs": 2000, "song_seconds": 20.0, "command": "make tiny"}
    evaluations = {name: {"num_songs": 300, "seed": 7, "scores": scores} for name in ("test", "unseen")}
    return {"training": training, "evaluations": evaluations}


def make_split_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout of `apex-music evaluate`."""
    head = {
        "num_songs": 50,
        "mse": make_estimate(650.0),
        "mae": make_estimate(20.0),
        "pearson": make_estimate(0.35),
        "spearman": make_estimate(0.37),
        "baselines": {"mean": {"mse": 793.0, "mae": 23.4}, "median": {"mse": 800.0, "mae": 21.5}},
    }
    heads = dict.fromkeys(head_names, head)
    splits = {"test": {"all": heads, "suno": heads}}
    return {"model": "m", "label_sources": ["pseudo-labels"], "num_draws": 1000, "splits": splits}
