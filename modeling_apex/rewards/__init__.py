"""Scores as a reward for other programs: waveforms in memory, on their device, with a gradient if one is wanted."""

from modeling_apex.rewards.song_reward import RewardOutput, SongReward

__all__ = ["RewardOutput", "SongReward"]
