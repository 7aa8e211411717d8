"""
The published way to score a song, restated to be measured against: float32, transformers' own modules.

The whole file is decoded, mixed and resampled first; then one 30 s segment a call goes through HuBERT with eager
attention, all hidden states are kept, and four of them are averaged, as in the authors' `inference.py`; the resampler
is torchaudio's filter. What is not restated is what no longer runs: MERT's remote code.
"""

import copy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the restatement of the method lies

import soundfile
import torch
from transformers import HubertModel

from modeling_apex import ApexModel

import reference_apex

SAMPLING_RATE = 24_000


class PublishedPath:
    """
    Score songs the published way.

    Args:
        model (`Path` or [`ApexModel`]):
            A model of this package or its folder; its weights are used under their published names.
    """

    def __init__(self, model: Path | ApexModel):
        model = (ApexModel.from_pretrained(model) if isinstance(model, Path) else model).eval()
        self.config = model.config
        # A copy, since choosing the attention writes into the config, and the model's own layers read it there.
        self.encoder = HubertModel._from_config(
            copy.deepcopy(model.config.encoder_config), attn_implementation="eager"
        ).eval()
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("encoder.")}

    @torch.no_grad()
    def embed_segment(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the embedding `(D,)` of one normalised segment `(T,)`."""
        states = self.encoder(samples[None], output_hidden_states=True).hidden_states
        pooled = torch.stack([states[index][0].mean(0) for index in self.config.layer_indices])  # (L, D)
        return self.weights["aggregator.weight"][0, :, 0] @ pooled + self.weights["aggregator.bias"]

    @torch.no_grad()
    def __call__(self, path: str | Path, max_segments: int | None = None) -> dict[str, Any]:
        """Return the scores and the song embedding of a file; `max_segments` stops early, to measure memory."""
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = reference_apex.resample(torch.from_numpy(samples).mean(1), rate, SAMPLING_RATE)
        segments = reference_apex.segment(waveform, round(self.config.segment_seconds * SAMPLING_RATE))
        rows = [self.embed_segment(reference_apex.normalize(segment[None])[0]) for segment in segments[:max_segments]]
        song = torch.stack(rows).mean(0)
        scores = reference_apex.score(song, self.weights, self.config.head_names)
        return {"embedding": song, "scores": dict(zip(self.config.head_names, scores.tolist(), strict=True))}
