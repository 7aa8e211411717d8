"""TRL: a reward function for `GRPOTrainer(reward_funcs=...)`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeling_apex.rewards.song_reward import SongReward


def build_reward_function(
    reward: SongReward,
    *,
    audio_column: str = "audio",
    decode: Callable[..., Sequence[tuple[Any, int]]] | None = None,
    name: str = "apex_reward",
) -> Callable[..., list[float | None]]:
    """
    Build a function that TRL calls with prompts and completions: one reward a completion, `None` where there is none.

    Args:
        reward ([`SongReward`]):
            With `on_error="nan"`, a completion that cannot be scored gets no reward instead of ending the training.
        audio_column (`str`, defaults to `"audio"`):
            Column of the data set that holds the sound, as `{"array": ..., "sampling_rate": ...}`.
        decode (`Callable`, *optional*):
            Makes the sound of completions instead, `(waveform, rate)` for each: called as TRL calls the reward.
        name (`str`): What logs call the reward.

    Raises:
        `ValueError`: From the function, if there is neither such a column nor `decode`.
    """

    def apex_reward(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        if decode is not None:
            songs = list(decode(prompts=prompts, completions=completions, **columns))
        elif audio_column in columns:
            songs = [_read_cell(cell) for cell in columns[audio_column]]
        else:
            raise ValueError(
                f"the data set has no column {audio_column!r} with sound. Name it by `audio_column=`, or pass "
                "`decode=`, which makes the sound of completions."
            )
        output = reward([waveform for waveform, _ in songs], [rate for _, rate in songs])
        return [None if math.isnan(value) else value for value in output.tolist()]

    apex_reward.__name__ = name
    return apex_reward


def _read_cell(cell: Mapping[str, Any]) -> tuple[Any, int]:
    import numpy as np

    return np.asarray(cell["array"], np.float32), int(cell["sampling_rate"])
