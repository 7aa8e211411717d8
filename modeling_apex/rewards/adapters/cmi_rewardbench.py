"""CMI-RewardBench: `--model_class_path modeling_apex.rewards.adapters.cmi_rewardbench:ApexRewardModel`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_apex.inference.audio_apex import load_audio
from modeling_apex.rewards.song_reward import SongReward


class ApexRewardModel:
    """
    Score `(N, 2)`: alignment, which no model of ours hears and is NaN, and musicality.

    Args:
        checkpoint (`str`, *optional*): A Hub id or a folder. Defaults to the embedded demonstration model.
        device (`str`, *optional*): Where to run.
        score (`str` or weights, defaults to `"musicality"`): As in [`SongReward`].
    """

    def __init__(
        self, checkpoint: str | None = None, device: str | None = None, *, score: Any = "musicality", **options: Any
    ):
        self.reward = SongReward(checkpoint, score=score)
        if device is not None:
            self.reward.model.to(device)

    @property
    def sr(self) -> int:
        """Rate that tensors must have, in hertz."""
        rate: int = self.reward.model.config.sampling_rate
        return rate

    @torch.no_grad()
    def score_batch(
        self, inputs: Sequence[Any], batch_size: int = 4, max_dur: float | None = 30.0, **options: Any
    ) -> np.ndarray:
        """Score inputs whose `.audio` is a path or a waveform at `sr`; only the first `max_dur` seconds count."""
        scores = np.full((len(inputs), 2), np.nan)
        longest = None if max_dur is None else round(max_dur * self.sr)
        for start in range(0, len(inputs), batch_size):
            songs = [self._load(item.audio)[..., :longest] for item in inputs[start : start + batch_size]]
            scores[start : start + batch_size, 1] = self.reward(songs, self.sr).tolist()
        return scores

    def _load(self, audio: Any) -> Any:
        return torch.from_numpy(load_audio(audio, target_rate=self.sr)) if isinstance(audio, str) else audio
