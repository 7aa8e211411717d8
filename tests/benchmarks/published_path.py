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
        folder (`Path`):
            A model folder of this package; its weights are used under their published names.
    """

    def __init__(self, folder: Path):
        model = ApexModel.from_pretrained(folder).eval()
        self.config = model.config
        self.encoder = HubertModel._from_config(
            copy.deepcopy(model.config.encoder_config), attn_implementation="eager"
        ).eval()
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("encoder.")}

    @torch.no_grad()
    def embed_segment(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the pooled layers `(L, D)` of one normalised segment `(T,)`."""
        states = self.encoder(samples[None], output_hidden_states=True).hidden_states
        return torch.stack([states[index][0].mean(0) for index in self.config.layer_indices])

    @torch.no_grad()
    def __call__(self, path: str | Path, max_segments: int | None = None) -> dict[str, Any]:
        """Return the scores and the song embedding of a file; `max_segments` stops early, to measure memory."""
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = reference_apex.resample(torch.from_numpy(samples).mean(1), rate, SAMPLING_RATE)
        segments = reference_apex.segment(waveform, round(self.config.segment_seconds * SAMPLING_RATE))
        embeddings = []
        for segment in segments[:max_segments]:
            pooled = self.embed_segment(reference_apex.normalize(segment[None])[0])
            mixed = self.weights["aggregator.weight"][0, :, 0] @ pooled + self.weights["aggregator.bias"]
            embeddings.append(mixed)
        song = torch.stack(embeddings).mean(0)
        scores = reference_apex.score(song, self.weights, self.config.head_names)
        return {"embedding": song, "scores": dict(zip(self.config.head_names, scores.tolist(), strict=True))}
