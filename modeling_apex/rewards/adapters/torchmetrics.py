"""torchmetrics, as audiocraft uses it: `update(audio, texts, sizes, sample_rates)`, `compute()`."""

from typing import Any

import torch

from modeling_apex.rewards.song_reward import SongReward


def build_metric(model: Any = None, *, score: Any = "musicality") -> Any:
    """
    Build a `torchmetrics.Metric`: the mean reward of all songs that it was shown, over all processes.

    Raises:
        `ImportError`: If torchmetrics is not installed.
    """
    from torchmetrics import Metric

    class ApexMetric(Metric):
        """Mean reward of songs; NaN where it saw none."""

        total: torch.Tensor
        num_songs: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.reward = SongReward(model, score=score)
            self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
            self.add_state("num_songs", default=torch.tensor(0.0), dist_reduce_fx="sum")

        def update(self, audio: torch.Tensor, texts: Any, sizes: torch.Tensor, sample_rates: torch.Tensor) -> None:
            """Take a batch `(batch_size, num_channels, num_samples)`; `sizes` and `sample_rates` are of each song."""
            rates = [int(rate) for rate in sample_rates]
            rewards = self.reward(audio, rates, lengths=sizes.tolist()).rewards
            self.total += rewards.sum().to(self.total.device)
            self.num_songs += len(rewards)

        def compute(self) -> torch.Tensor:
            return self.total / self.num_songs

    return ApexMetric()
