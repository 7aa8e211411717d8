"""Result files in the layouts that training, evaluation and apex-tiny write; the numbers are made up to be recognised."""

from typing import Any


def make_recipe_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout that apex-tiny's recipe writes."""
    scores = {
        name: {
            "num_songs": 100 + position,
            "spearman": 0.61 + position / 100,
            "spearman_interval": [0.52, 0.7],
            "spearman_ceiling": 0.9,
            "pearson": 0.63,
            "mse": 0.41,
            "mse_of_training_mean": 0.8,
            "mae": 0.5,
            "mae_of_training_median": 0.7,
            "target": 0.5,
            "is_met": True,
        }
        for position, name in enumerate(head_names)
    }
    training = {"num_parameters": 1, "num_songs": 2000, "song_seconds": 20.0, "command": "make tiny"}
    evaluations = {name: {"num_songs": 300, "seed": 7, "scores": scores} for name in ("test", "unseen")}
    return {"training": training, "evaluations": evaluations}


def make_split_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout of `apex-music evaluate`."""

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    head = {
        "num_songs": 50,
        "mse": estimate(650.0),
        "mae": estimate(20.0),
        "pearson": estimate(0.35),
        "spearman": estimate(0.37),
        "baselines": {"mean": {"mse": 793.0, "mae": 23.4}, "median": {"mse": 800.0, "mae": 21.5}},
    }
    heads = {name: head for name in head_names}
    splits = {"test": {"all": heads, "suno": heads}}
    return {"model": "m", "label_sources": ["pseudo-labels"], "num_draws": 1000, "splits": splits}
