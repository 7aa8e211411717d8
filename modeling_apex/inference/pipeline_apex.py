"""
The public door: `pipeline("apex-popularity")`, from any kind of song to its report.

What comes in is a path, URL, bytes, file object, array or dataset value, one or many; what leaves is one report a song
(see `report_apex`). A song is decoded, resampled and cut as a stream, and `batch_size` batches segments across songs,
so memory depends on neither the length of a song nor the number of songs.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import IterableDataset
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .feature_extraction_apex import ApexFeatureExtractor
from .scoring_apex import ON_ERROR, SONG_ERRORS, SongScoring, describe_model

__all__ = ["ON_ERROR", "SONG_ERRORS", "ApexPopularityPipeline", "describe_model"]

logger = logging.get_logger(__name__)

AS_SUITS = 0  # the batch size of whoever named none; transformers would make it 1


class ApexPopularityPipeline(SongScoring, ChunkPipeline):
    """
    Score songs from audio.

    ```python
    >>> from transformers import pipeline
    >>> import modeling_apex
    >>> scorer = pipeline("apex-popularity", model="amaai-lab/apex")
    >>> scorer("song.mp3")["scores"]
    ```

    The call takes one song, or a list, generator or dataset of songs. A song is a path, an `http(s)` URL, bytes, a
    file object, an array or tensor (with `sampling_rate=`), a dict with `array` and `sampling_rate`, or with `path`
    and `bytes`, a decoder as `datasets` yields it, or a row with an `audio` column.

    A model that fuses audio with track features takes them beside the audio: `{"audio": song, "features": {"genre":
    "pop", "tempo": 120.0}}`, or as columns of a dataset's row. What is absent is missing, never guessed; the report
    says under `features` what was given, what was missing, and what of it leaks the target.

    Args of the call:
        sampling_rate (`int`, *optional*):
            Sampling rate of arrays, in hertz. Files know their own.
        resampler (`str`, defaults to `"sinc"`):
            `"sinc"` is the filter that the published weights were trained behind; `"soxr"` is the faster alternative.
        limits ([`AudioLimits`], *optional*):
            What is refused: length, size, channels, sampling rate.
        on_error (`str`, defaults to `"raise"`):
            `"raise"` stops at the first bad song; `"report"` puts a report with `error` in its place.
        return_timeline (`bool`, defaults to `False`):
            Whether to score each segment too: `segments` in the report.
        return_embedding (`bool`, defaults to `False`):
            Whether to give the song embedding: `embedding` in the report.
        return_percentiles (`bool`, defaults to `True`):
            Whether to give popularity scores as percentiles too.
        read_ahead (`bool`, *optional*):
            Whether songs may be taken and decoded, in a background thread, before the reports of those before them are
            out. By default they are, except for songs that come from an iterator of yours, which that thread would
            run.
        batch_size (`int`, *optional*):
            Segments that the model gets at once, across songs. Scores do not depend on it. By default as many as suit
            the threads of a CPU where it reads ahead, and 1 elsewhere.

    A list returns a list of reports; a generator or dataset returns an iterator, so that nothing piles up.
    """

    # The feature extractor follows from the model's config, so a folder that lacks its file still loads.
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    # In the installed package: what makes segments in a thread of its own, and how many at once suit a CPU.
    read_ahead: ClassVar[Callable[[Any, int], Any] | None] = None
    count_workers: ClassVar[Callable[[], int] | None] = None

    def __init__(self, model: Any, feature_extractor: Any = None, **kwargs: Any):
        if feature_extractor is None:
            feature_extractor = ApexFeatureExtractor.from_config(model.config)
        elif isinstance(feature_extractor, (str, Path)):
            feature_extractor = ApexFeatureExtractor.from_pretrained(feature_extractor)
        kwargs["batch_size"] = kwargs.get("batch_size") or AS_SUITS
        super().__init__(model=model, feature_extractor=feature_extractor, **kwargs)
        self.model_id, self.model_revision = describe_model(model.config)
        if notice := model.config.provenance.get("notice"):
            logger.warning(f"{self.model_id}: {notice}")

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Score one song or many; the class says what is accepted."""
        if isinstance(inputs, (list, tuple)):
            return super().__call__(list(inputs), **kwargs) if inputs else []
        if _is_dataset(inputs):
            return iter(super().__call__(_SongStream(_iterate_dataset(inputs)), **kwargs))
        if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):
            return iter(super().__call__(_SongStream(inputs, may_read_ahead=False), **kwargs))
        return super().__call__(inputs, **kwargs)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Any:
        """Return the iterator over reports that transformers builds, with a thread between decoding and the model."""
        options = dict(preprocess_params)
        read_ahead = options.pop("read_ahead", getattr(inputs, "may_read_ahead", True))
        read_ahead = read_ahead and type(self).read_ahead is not None
        if batch_size == AS_SUITS:
            count = type(self).count_workers if read_ahead and self.device.type == "cpu" else None
            batch_size = 1 if count is None else count()
        reports = super().get_iterator(inputs, num_workers, batch_size, options, forward_params, postprocess_params)
        # Reports are made of what the model makes of what a loader loads; worker processes already read ahead.
        from_model: Any = getattr(reports, "loader", None)
        if not read_ahead or num_workers > 0 or not hasattr(from_model, "loader"):
            return reports
        return type(self).read_ahead(reports, batch_size)  # type: ignore[misc]


class _SongStream(IterableDataset[Any]):
    """Songs as they come: every release of transformers takes a dataset lazily, not every one a generator."""

    def __init__(self, songs: Iterator[Any], *, may_read_ahead: bool = True):
        self.songs = songs
        self.may_read_ahead = may_read_ahead

    def __iter__(self) -> Iterator[Any]:
        return self.songs


def _is_dataset(inputs: Any) -> bool:
    return type(inputs).__module__.partition(".")[0] == "datasets" and isinstance(inputs, Iterable)


def _iterate_dataset(dataset: Any) -> Iterator[Any]:
    """Iterate over the rows of a dataset, or the values of one of its columns, without letting it decode audio."""
    if hasattr(dataset, "column_name"):  # one column: `dataset["audio"]`
        yield from (row[dataset.column_name] for row in _iterate_rows(dataset.source, dataset.column_name))
        return
    features = getattr(dataset, "features", None)
    if features is not None and "audio" not in features:
        raise ValueError(
            f"the dataset has no column `audio`; it has {', '.join(features)}. Rename the one that holds the songs: "
            'dataset.rename_column(NAME, "audio").'
        )
    yield from _iterate_rows(dataset, "audio")


def _iterate_rows(dataset: Any, column: str) -> Iterator[Any]:
    if getattr((getattr(dataset, "features", None) or {}).get(column), "decode", False):
        from datasets import Audio

        dataset = dataset.cast_column(column, Audio(decode=False))
    yield from dataset
