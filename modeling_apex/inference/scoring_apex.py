"""
What happens to a song between the door and its report, without transformers.

What comes in is one song of any kind; it leaves as items, one a segment, which the model turns into embeddings, and
the embeddings of a song become its report. [`SongScoring`] holds these steps: `ApexPopularityPipeline` runs them in a
pipeline of transformers, which batches items across songs, and the command line without one where it can.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .audio_apex import stream_segments
from .audio_limits_apex import AudioLimits
from .normalization_apex import normalize_segments
from .song_report_apex import build_error_report, build_report

ON_ERROR = ("raise", "report")
# What one song can do wrong. Anything else is a fault of the program or the machine, and stops the batch.
SONG_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)


class SongScoring:
    """
    The steps from a song to its report.

    A part of an object that has a `model`, a `feature_extractor` (or whatever knows `sampling_rate`,
    `segment_seconds`, `segment_num_samples` and `minimum_num_samples`), a `model_id` and a `model_revision`.
    """

    model: Any
    feature_extractor: Any
    model_id: str
    model_revision: str | None

    def _sanitize_parameters(
        self,
        sampling_rate: int | None = None,
        resampler: str | None = None,
        limits: AudioLimits | None = None,
        on_error: str | None = None,
        return_timeline: bool | None = None,
        return_embedding: bool | None = None,
        return_percentiles: bool | None = None,
        read_ahead: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(
                f"unexpected arguments {sorted(unknown)}; expected sampling_rate, resampler, limits, on_error, "
                "return_timeline, return_embedding, return_percentiles, read_ahead, batch_size. Options of the model "
                "go in `model_kwargs`."
            )
        if on_error is not None and on_error not in ON_ERROR:
            raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}, got {on_error!r}.")

        def given(**options: Any) -> dict[str, Any]:
            return {name: value for name, value in options.items() if value is not None}

        # `read_ahead` is for whoever iterates over `preprocess`, and taken out before it is called.
        return (
            given(
                sampling_rate=sampling_rate,
                resampler=resampler,
                limits=limits,
                on_error=on_error,
                read_ahead=read_ahead,
            ),
            given(on_error=on_error),
            given(
                on_error=on_error,
                return_timeline=return_timeline,
                return_embedding=return_embedding,
                return_percentiles=return_percentiles,
            ),
        )

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: int | None = None,
        resampler: str = "sinc",
        limits: AudioLimits | None = None,
        on_error: str = "raise",
    ) -> Iterator[dict[str, Any]]:
        """Yield one item a segment: `input_values` `(1, T)`, and in `facts` what the report needs to know of it."""
        name, source, features = _name_song(inputs, getattr(self.model.config, "feature_names", None))
        extractor = self.feature_extractor
        try:
            row = self._encode_features(features)
            with stream_segments(
                source,
                target_rate=extractor.sampling_rate,
                segment_seconds=extractor.segment_seconds,
                sampling_rate=sampling_rate,
                resampler=resampler,
                limits=limits,
                minimum_num_samples=extractor.minimum_num_samples,
            ) as stream:
                name = name or stream.name
                for segment in stream:
                    facts = {
                        "song": name,
                        "start": segment.start_sample / extractor.sampling_rate,
                        "end": (segment.start_sample + segment.num_real_samples) / extractor.sampling_rate,
                        "warnings": list(stream.warnings) if segment.is_last else [],
                        "features": row,
                        "error": None,
                    }
                    values = torch.from_numpy(normalize_segments(segment.samples[None]))  # (1, T)
                    yield {"is_last": segment.is_last, "input_values": values, "facts": facts}
        except SONG_ERRORS as error:
            if on_error == "raise":
                raise
            # The item has the shape of a segment, so that it travels in a batch with the segments of other songs.
            facts = {"song": name, "start": 0.0, "end": 0.0, "warnings": [], "features": None, "error": str(error)}
            yield {"is_last": True, "input_values": torch.zeros(1, extractor.segment_num_samples), "facts": facts}

    def _encode_features(self, features: Mapping[str, Any] | None) -> list[float] | None:
        """Return the row of track features that the model takes of this song; `None` for a model that takes none."""
        if getattr(self.model.config, "feature_names", None):
            row: list[float] = self.model.config.encode_features(features or {})
            return row
        if features:
            raise ValueError(
                f"this model ({self.model_id}) scores the audio alone and takes no track features: leave them out."
            )
        return None

    def _forward(self, model_inputs: dict[str, Any], on_error: str = "raise") -> dict[str, Any]:
        facts = model_inputs["facts"]
        rows = facts if isinstance(facts, list) else [facts]
        values = model_inputs["input_values"]  # (n, T)
        embeddings = values.new_zeros(len(rows), self.model.config.hidden_size, dtype=torch.float32)  # (n, D)
        wanted = [row for row, fact in enumerate(rows) if fact["error"] is None]
        try:
            if wanted:
                embeddings[wanted] = self.model.compute_segment_embeddings(values[wanted]).float()
        except FloatingPointError:
            if on_error == "raise":
                raise
            for row in wanted:
                try:
                    embeddings[row] = self.model.compute_segment_embeddings(values[row : row + 1])[0].float()
                except FloatingPointError as error:
                    rows[row]["error"] = str(error)
        return {"is_last": model_inputs["is_last"], "embedding": embeddings, "facts": facts}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        on_error: str = "raise",
        return_timeline: bool = False,
        return_embedding: bool = False,
        return_percentiles: bool = True,
    ) -> dict[str, Any]:
        """Turn the segments of one song into its report."""
        facts = [output["facts"] for output in model_outputs]
        facts = [fact[0] if isinstance(fact, list) else fact for fact in facts]
        name = facts[0]["song"]
        identity: dict[str, Any] = {"model_id": self.model_id, "model_revision": self.model_revision}
        errors = [fact["error"] for fact in facts if fact["error"] is not None]
        if errors:
            return build_error_report(name, errors[0], **identity)
        embeddings = torch.cat([output["embedding"] for output in model_outputs]).unsqueeze(0)  # (1, S, D)
        row, fused_inputs, described, notices = facts[0]["features"], {}, None, []
        if row is not None:
            fused_inputs["features"] = torch.tensor([row], dtype=torch.float32, device=self.model.device)  # (1, K)
            described, notices = self.model.config.describe_features(row)
        try:
            with torch.no_grad():
                output = self.model(
                    segment_embeddings=embeddings.to(self.model.device),
                    output_segment_scores=return_timeline,
                    **fused_inputs,
                )
        except FloatingPointError as error:
            if on_error == "raise":
                raise
            return build_error_report(name, str(error), **identity)
        heads = self.model.config.heads
        timeline = None
        if return_timeline:
            timeline = [
                {
                    "start_seconds": fact["start"],
                    "end_seconds": fact["end"],
                    "scores": dict(zip(self.model.config.head_names, scores, strict=True)),
                }
                for fact, scores in zip(facts, output.segment_scores[0].tolist(), strict=True)
            ]
        return build_report(
            name,
            output.scores[0].tolist(),
            heads,
            popularity_exponent=self.model.config.popularity_exponent,
            duration_seconds=facts[-1]["end"],
            num_segments=len(facts),
            warnings=[*(warning for fact in facts for warning in fact["warnings"]), *notices],
            features=described,
            segments=timeline,
            embedding=output.song_embedding[0].tolist() if return_embedding else None,
            with_percentiles=return_percentiles,
            percentile_tables=self.model.config.percentile_tables,
            **identity,
        )


def describe_model(config: Any) -> tuple[str, str | None]:
    """
    Name a loaded model for reports.

    Returns:
        `tuple[str, str | None]`: the Hub id or folder that it was loaded from, and its commit on the Hub.
    """
    name = str(getattr(config, "_name_or_path", "") or "unsaved model")
    if Path(name).parent.name == "pretrained":  # a model that lies in this package, wherever that is installed
        name = Path(name).name
    return name, getattr(config, "_commit_hash", None)


def _name_song(song: Any, feature_names: Any = None) -> tuple[str | None, Any, Any]:
    """Separate a song into its name, its audio and its track features; name what opening it may fail to name."""
    features = song.get("features") if isinstance(song, Mapping) else None
    if isinstance(song, Mapping) and "audio" in song:
        if "features" not in song:  # a dataset's row, whose columns are named as the features are
            features = {name: song[name] for name in feature_names or () if name in song} or None
        name, audio = song.get("id"), song["audio"]
        if name is None and isinstance(audio, (str, os.PathLike)):
            name = audio
        return None if name is None else str(name), audio, features
    if isinstance(song, Mapping):
        return song.get("path"), {key: value for key, value in song.items() if key != "features"}, features
    return str(song) if isinstance(song, (str, os.PathLike)) else None, song, None
