"""The habit of audiobox-aesthetics: `initialize_predictor().forward([{"path": ...}])`, one dictionary a song."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modeling_apex.inference.audio_apex import load_audio
from modeling_apex.rewards.song_reward import SongReward


class ApexPredictor:
    """Score files and tensors as `AesPredictor` takes them; axes have the names of our scores."""

    def __init__(self, checkpoint_pth: str | None = None, data_col: str = "path"):
        self.reward, self.data_col = SongReward(checkpoint_pth), data_col

    @torch.no_grad()
    def forward(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """
        Score items with a path, or a waveform `(num_channels, num_samples)` and its `sample_rate`.

        `start_time` and `end_time`, in seconds, choose a part of a song.
        """
        songs: list[Any] = []
        rates: list[int] = []
        own_rate = self.reward.model.config.sampling_rate
        for item in batch:
            song, rate = item[self.data_col], item.get("sample_rate", own_rate)
            if isinstance(song, str):
                song, rate = torch.from_numpy(load_audio(song, target_rate=own_rate)), own_rate
            if "start_time" in item:
                song = song[..., round(item["start_time"] * rate) : round(item["end_time"] * rate)]
            songs.append(song)
            rates.append(rate)
        components = self.reward(songs, rates).components
        return [{name: float(column[row]) for name, column in components.items()} for row in range(len(songs))]


def initialize_predictor(ckpt: str | None = None) -> ApexPredictor:
    """Load the predictor; `ckpt` is a Hub id or a folder."""
    return ApexPredictor(ckpt)
