"""
verl-omni: `compute_score` for its audio reward manager, in process or by HTTP.

In process: `reward.custom_reward_function.path=pkg://modeling_apex.rewards.adapters.verl_omni`, `name=compute_score`.
By HTTP: `python -m modeling_apex.rewards MODEL --port 8000`.
"""

import functools
import math
from typing import Any

from modeling_apex.rewards.song_reward import SongReward


@functools.lru_cache(maxsize=1)
def load_reward(model: str | None = None, score: str = "musicality") -> SongReward:
    """Load the reward once for a process."""
    return SongReward(model, score=score)


def compute_score(
    data_source: str,
    solution_audio: tuple[Any, int],
    ground_truth: Any = None,
    extra_info: Any = None,
    *,
    model: str | None = None,
    score: str = "musicality",
    **options: Any,
) -> dict[str, float]:
    """
    Score `(waveform, rate)`: `{"score": ..., ...}` with every score of the model beside it.

    `model` and `score` are given as `reward.custom_reward_function.reward_kwargs`.

    Raises:
        `ValueError`: If the song cannot be scored; verl-omni takes no other number for it.
    """
    waveform, rate = solution_audio
    output = load_reward(model, score)(waveform, int(rate))
    components = {name: float(column[0]) for name, column in output.components.items()}
    reward = output.tolist()[0]
    if not math.isfinite(reward):
        raise ValueError(f"{data_source}: the reward is {reward}.")
    return {"score": reward, **components}
