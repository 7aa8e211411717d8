"""UniRL: a local reward backend."""

from typing import Any

from modeling_apex.rewards.song_reward import RewardOutput, SongReward


def build_backend_class() -> type:
    """
    Build `ApexRewardBackend`, a `LocalRewardBackend` of the UniRL that is installed.

    It takes `model`, a Hub id or a folder, and `score`, as in [`SongReward`], among its `model_kwargs`.

    Raises:
        `ImportError`: If UniRL is not installed.
    """
    from unirl.reward.local.base import LocalRewardBackend

    class ApexRewardBackend(LocalRewardBackend):
        """Reward `request.audio`, waveforms of shape `[L]`, `[C, L]` or `[L, C]`; a bad one is no success."""

        last: RewardOutput

        def _load_model(self) -> None:
            options = {"score": self.model_kwargs.get("score", "musicality"), "on_error": "nan"}
            self.reward = SongReward(self.model_kwargs.get("model"), **options)
            self.model = self.reward.model.to(self.device)

        def _compute_model_rewards(self, request: Any) -> list[float]:
            self.last = self.reward(list(request.audio), request.audio_sample_rate)
            return self.last.tolist()

        def compute_rewards(self, request: Any) -> Any:
            response = super().compute_rewards(request)
            response.successes = [error is None for error in self.last.errors]
            response.errors = list(self.last.errors)
            response.component_rewards = {name: column.tolist() for name, column in self.last.components.items()}
            return response

    return ApexRewardBackend
