"""
From songs to their reports: the one scorer that every door holds, without transformers.

What comes in are songs of any kind and a model; what leaves is one report a song. [`SongScorer`] reads a song into
items, one a segment, encodes batches of them across songs, and reports on the embeddings of each song.
"""

import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

import torch

from .audio_apex import SegmentStream, stream_segments
from .audio_limits_apex import AudioLimits
from .configuration_fields_apex import TAILS
from .decoding_apex import name_song
from .normalization_apex import normalize_segments
from .song_report_apex import SongReport, build_error_report, build_report

ON_ERROR = ("raise", "report")
# What one song can do wrong. Anything else is a fault of the program or the machine, and stops the batch.
SONG_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)
NO_TIMELINE = "there is no timeline: this model hears a song whole, and scores of its parts would be other scores"
READ_OPTIONS = ("sampling_rate", "resampler", "limits", "on_error", "read_ahead")
REPORT_OPTIONS = ("return_timeline", "return_embedding", "return_percentiles", "tail", "on_error")


class ScoreOptions(TypedDict, total=False):
    """What a call may ask for; `None` for the default."""

    sampling_rate: int | None  # of arrays, in hertz; files know their own
    # "sinc", the default, is the filter that the published weights were trained behind; "soxr" is faster. A model that
    # hears songs whole has its own.
    resampler: str | None
    limits: AudioLimits | None  # what is refused: length, size, channels, sampling rate
    on_error: str | None  # "raise" (the default), or "report": a report with `error` in the place of a bad song's
    return_timeline: bool | None  # whether to score each segment too: `segments` in the report
    return_embedding: bool | None  # whether to give the song embedding: `embedding` in the report
    return_percentiles: bool | None  # whether to give percentiles too; true by default
    # What the padded last segment counts: "full", "weighted" or "drop"; by default as the model's config says.
    tail: str | None
    # Whether songs may be taken and decoded, in a background thread, before the reports of those before them are out.
    # By default they are, except for songs that come from an iterator of yours, which that thread would run.
    read_ahead: bool | None


def split_options(**options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort the options of a call by the step that takes them: `read` (and who calls it), `encode`, `report`."""
    known = ScoreOptions.__annotations__
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"unexpected arguments {unknown}; expected {', '.join(known)}, batch_size. Options of the model go in "
            "`model_kwargs`."
        )
    given = {name: value for name, value in options.items() if value is not None}
    for name, choices in (("on_error", ON_ERROR), ("tail", TAILS)):
        if given.get(name, choices[0]) not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {given[name]!r}.")
    steps = (READ_OPTIONS, ("on_error",), REPORT_OPTIONS)
    read, encode, report = ({name: given[name] for name in names if name in given} for names in steps)
    return read, encode, report


class SongScorer:
    """
    Score songs with a model. Threads may share one: a call keeps its state to itself.

    Args:
        model ([`ApexModel`], [`SpectrogramFusionModel`] or [`SongEvalModel`]):
            The model, or anything with the `config`, `device`, `compute_segment_embeddings` and call of these.
        batch_size (`int`, *optional*):
            Segments that the model gets at once, across songs. Scores do not depend on it. By default as many as suit
            the threads of a CPU where songs are read ahead, and 1 elsewhere.
        on_segment (`Callable[[int], None]`, *optional*):
            Is called after each segment with the number that the present call of `score` has encoded so far.
        feature_extractor ([`ApexFeatureExtractor`], *optional*):
            Knows the sampling rate and the length of segments; by default the model's config.

    Attributes:
        model_id (`str`), model_revision (`str`, *optional*): What reports call the model; its commit on the Hub.
    """

    # In the installed package: what reads songs in a thread of its own, and how many segments at once suit a CPU.
    read_ahead: ClassVar[Callable[[Any, int], Any] | None] = None
    # What tells how unlike the songs of the model's reference set a song is, and what the user must know of it.
    measure_novelty: ClassVar[Callable[[Any, Any], Any] | None] = None
    count_workers: ClassVar[Callable[[], int] | None] = None

    def __init__(
        self,
        model: Any,
        *,
        batch_size: int | None = None,
        on_segment: Callable[[int], None] | None = None,
        feature_extractor: Any = None,
    ):
        self.model, self.batch_size, self.on_segment = model, batch_size, on_segment
        self.feature_extractor = feature_extractor or model.config
        self.model_id, self.model_revision = describe_model(model.config)
        self.is_whole_song = getattr(model.config, "is_whole_song", False)

    def score(
        self, songs: Iterable[Any], *, on_segment: Callable[[int], None] | None = None, **options: Unpack[ScoreOptions]
    ) -> Iterator[SongReport]:
        """
        Return an iterator over the reports of songs, in order; songs and options are as in [`ApexPopularityPipeline`].

        Raises:
            `TypeError`, `ValueError`: If `songs` is a single song, or an option is unknown or has no such value; with
                `on_error="raise"` also what a song can raise.
        """
        if isinstance(songs, (str, bytes, os.PathLike, Mapping)):
            raise TypeError(f"`songs` must be many songs, got one ({type(songs).__name__}). Put it in a list.")
        read, encode, report = split_options(**options)
        read_ahead = read.pop("read_ahead", not isinstance(songs, Iterator))
        return self.run(
            songs,
            functools.partial(self.read, **read),
            functools.partial(self.encode, **encode),
            functools.partial(self.report, **report),
            read_ahead=read_ahead,
            on_segment=on_segment,
        )

    def run(
        self,
        songs: Iterable[Any],
        read: Callable[[Any], Iterator[dict[str, Any]]],
        encode: Callable[[dict[str, Any]], list[dict[str, Any]]],
        report: Callable[[list[dict[str, Any]]], Any],
        *,
        batch_size: int | None = None,
        read_ahead: bool = True,
        on_segment: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        """Run the three steps, given as the methods of their names, over songs; the rest is as in the class."""
        start = type(self).read_ahead if read_ahead else None
        batch_size, on_segment = batch_size or self.batch_size, on_segment or self.on_segment
        if self.is_whole_song:  # whole songs take memory, and beside scoring one, a CPU decodes it in no time
            start, batch_size = None if self.model.device.type == "cpu" else start, batch_size or 1
        if not batch_size:
            count = type(self).count_workers if start and self.model.device.type == "cpu" else None
            batch_size = count() if count else 1
        batches = iterate_batches(songs, read, batch_size)
        num_done, outputs = 0, []
        with closing(start(batches, batch_size) if start else batches) as source:
            for batch in source:
                encoded = encode(batch)
                del batch  # its audio is let go before more is asked for
                for output in encoded:
                    outputs.append(output)
                    if on_segment and output["facts"]["error"] is None:
                        num_done += 1
                        on_segment(num_done)
                    if output["is_last"]:
                        yield report(outputs)
                        outputs = []

    def read(
        self,
        song: Any,
        *,
        sampling_rate: int | None = None,
        resampler: str = "sinc",
        limits: AudioLimits | None = None,
        on_error: str = "raise",
    ) -> Iterator[dict[str, Any]]:
        """Yield one item per segment: `input_values` `(1, T)`, `is_last`, and in `facts` what its report needs."""
        name, source, features = _name_song(song, getattr(self.model.config, "feature_names", None))
        extractor = self.feature_extractor
        try:
            row = self._encode_features(features)
            with self._open_song(source, resampler, sampling_rate=sampling_rate, limits=limits) as stream:
                name = name or stream.name
                for segment in stream:
                    facts = {
                        "song": name,
                        "start": segment.start_sample / extractor.sampling_rate,
                        "end": (segment.start_sample + segment.num_real_samples) / extractor.sampling_rate,
                        "num_real_samples": segment.num_real_samples,
                        "warnings": list(stream.warnings) if segment.is_last else [],
                        "features": row,
                        "error": None,
                    }
                    values = segment.samples[None]
                    values = values if self.is_whole_song else normalize_segments(values, out=values)
                    yield {"is_last": segment.is_last, "input_values": torch.from_numpy(values), "facts": facts}
        except SONG_ERRORS as error:
            if on_error == "raise":
                raise
            # The item has the shape of a segment, so that it travels in a batch with the segments of other songs.
            facts = {"song": name, "start": 0.0, "end": 0.0, "warnings": [], "features": None, "error": str(error)}
            length = 0 if self.is_whole_song else extractor.segment_num_samples
            yield {"is_last": True, "input_values": torch.zeros(1, length), "facts": facts}

    def _open_song(self, source: Any, resampler: str, **options: Any) -> SegmentStream:
        """Open a song in segments, or as a model opens it that hears it whole."""
        if self.is_whole_song:
            stream: SegmentStream = self.model.open_song(source, **options)
            return stream
        extractor = self.feature_extractor
        options |= {name: getattr(extractor, name) for name in ("segment_seconds", "minimum_num_samples")}
        return stream_segments(source, target_rate=extractor.sampling_rate, resampler=resampler, **options)

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

    @torch.no_grad()
    def encode(
        self, items: Sequence[Mapping[str, Any]] | Mapping[str, Any], *, on_error: str = "raise"
    ) -> list[dict[str, Any]]:
        """Encode items, or what `collate_items` made of them: each with its `embedding` `(1, D)` for its audio."""
        batch = items if isinstance(items, Mapping) else collate_items(items)
        facts = [dict(fact) for fact in batch["facts"]]
        rows = [row for row, fact in enumerate(facts) if fact["error"] is None]
        embeddings = torch.zeros(len(facts), self.model.config.hidden_size)  # (n, D)
        values = batch["input_values"].to(self.model.device)  # (n, T)
        values = values if len(rows) == len(facts) else values[rows]  # (m, T)
        try:
            if rows:
                embeddings[rows] = self.model.compute_segment_embeddings(values).float().cpu()
        except FloatingPointError:
            if on_error == "raise":
                raise
            for row, segment in zip(rows, values.split(1), strict=True):
                try:
                    embeddings[row] = self.model.compute_segment_embeddings(segment)[0].float().cpu()
                except FloatingPointError as error:
                    facts[row]["error"] = str(error)
        return [
            {"is_last": is_last, "embedding": embedding, "facts": fact}
            for is_last, embedding, fact in zip(batch["is_last"], embeddings.split(1), facts, strict=True)
        ]

    @torch.no_grad()
    def report(
        self,
        outputs: Sequence[Mapping[str, Any]],
        *,
        on_error: str = "raise",
        return_timeline: bool = False,
        return_embedding: bool = False,
        return_percentiles: bool = True,
        tail: str | None = None,
    ) -> SongReport:
        """Turn the encoded segments of one song into its report."""
        config, facts = self.model.config, [output["facts"] for output in outputs]
        name, row = facts[0]["song"], facts[0]["features"]
        identity: dict[str, Any] = {"model_id": self.model_id, "model_revision": self.model_revision}
        if errors := [fact["error"] for fact in facts if fact["error"] is not None]:
            return build_error_report(name, errors[0], **identity)
        embeddings = torch.cat([output["embedding"] for output in outputs]).unsqueeze(0)  # (1, S, D)
        fused_inputs, described, notices = {}, None, []
        if row is not None:
            fused_inputs["features"] = torch.tensor([row], dtype=torch.float32, device=self.model.device)  # (1, K)
            described, notices = config.describe_features(row)
        try:
            output = self.model(
                segment_embeddings=embeddings.to(self.model.device),
                output_segment_scores=return_timeline,
                num_real_samples=torch.tensor([[fact["num_real_samples"] for fact in facts]]),  # (1, S)
                tail=tail,
                **fused_inputs,
            )
        except FloatingPointError as error:
            if on_error == "raise":
                raise
            return build_error_report(name, str(error), **identity)
        if return_timeline and self.is_whole_song:
            return_timeline, notices = False, [*notices, NO_TIMELINE]
        novelty, measure = None, type(self).measure_novelty
        if measure is not None and config.reference.get("novelty"):
            novelty, warnings = measure(output.song_embedding[0].tolist(), config.reference)
            notices = [*notices, *warnings]
        timeline = _build_timeline(facts, output.segment_scores[0], config) if return_timeline else None
        return build_report(
            name,
            output.scores[0].tolist(),
            config.heads,
            popularity_exponent=config.popularity_exponent,
            duration_seconds=facts[-1]["end"],
            num_segments=len(facts),
            warnings=[*(warning for fact in facts for warning in fact["warnings"]), *notices],
            features=described,
            segments=timeline,
            embedding=output.song_embedding[0].tolist() if return_embedding else None,
            with_percentiles=return_percentiles,
            percentile_tables=config.percentile_tables,
            reference=config.reference,
            novelty=novelty,
            **identity,
        )


def _build_timeline(facts: Sequence[Mapping[str, Any]], scores: torch.Tensor, config: Any) -> list[dict[str, Any]]:
    """Return the `segments` of a report, from the facts of each segment and its scores `(S, H)`."""
    named = [dict(zip(config.head_names, row, strict=True)) for row in scores.tolist()]
    return [
        {"start_seconds": fact["start"], "end_seconds": fact["end"], "scores": of_segment}
        for fact, of_segment in zip(facts, named, strict=True)
    ]


def collate_items(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join items to a batch: `input_values` `(n, T)`, `is_last` and `facts` as lists."""
    batch: dict[str, Any] = {name: [item[name] for item in items] for name in ("is_last", "facts")}
    return {**batch, "input_values": torch.cat([item["input_values"] for item in items])}


def iterate_batches(
    songs: Iterable[Any], read: Callable[[Any], Iterator[dict[str, Any]]], batch_size: int
) -> Generator[dict[str, Any], None, None]:
    """Read songs and yield batches of their items, which are of equal length, holding on to none of them."""
    items = itertools.chain.from_iterable(map(read, songs))
    for _, alike in itertools.groupby(items, lambda item: item["input_values"].shape):
        take = functools.partial(lambda some: list(itertools.islice(some, batch_size)), alike)
        yield from map(collate_items, iter(take, []))


def describe_model(config: Any) -> tuple[str, str | None]:
    """Name a loaded model for reports: the Hub id or folder that it was loaded from, and its commit on the Hub."""
    name = str(getattr(config, "_name_or_path", "") or "unsaved model")
    if Path(name).parent.parts[-2:] == ("modeling_apex", "pretrained"):  # in this package, wherever it is installed
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
        return None if name is None else name_song(name), audio, features
    if isinstance(song, Mapping):
        name, audio = song.get("path"), {key: value for key, value in song.items() if key != "features"}
        return None if name is None else name_song(name), audio, features
    return name_song(song) if isinstance(song, (str, os.PathLike)) else None, song, None
