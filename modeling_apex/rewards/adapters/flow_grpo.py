"""flow_grpo: a factory of its rewards; add it to the dictionary of names in `flow_grpo/rewards.py`."""

from collections.abc import Callable, Sequence
from typing import Any

from modeling_apex.rewards.song_reward import SongReward


def apex_score(
    device: Any, *, model: Any = None, score: Any = "musicality", sampling_rate: int = 44_100
) -> Callable[..., tuple[list[float], dict[str, list[float]]]]:
    """
    Return `fn(audio, prompts, metadata) -> (scores, details)`.

    `audio` is a batch `(batch_size, num_channels, num_samples)` or a list of waveforms; `metadata` may give the
    `sampling_rate` of each, in hertz, where it is not that of the factory.
    """
    reward = SongReward(model, score=score)
    reward.model.to(device)

    def compute(
        audio: Any, prompts: Any, metadata: Sequence[Any] | None
    ) -> tuple[list[float], dict[str, list[float]]]:
        rates = [(row or {}).get("sampling_rate", sampling_rate) for row in metadata or [None] * len(audio)]
        output = reward(audio, rates)
        return output.tolist(), {name: column.tolist() for name, column in output.components.items()}

    return compute
