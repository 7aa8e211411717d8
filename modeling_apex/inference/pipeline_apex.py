"""
The public door: `pipeline("apex-popularity")`, from any kind of song to its report.

What comes in is a path, URL, bytes, file object, array or dataset value, one or many; what leaves is one report a song
(see `report_apex`). A song is decoded, resampled and cut as a stream, and `batch_size` batches segments across songs,
so memory depends on neither the length of a song nor the number of songs.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers.pipelines.base import ChunkPipeline
from transformers.utils import logging

from .feature_extraction_apex import ApexFeatureExtractor
from .scoring_apex import SongScorer, split_options
from .song_report_apex import SongReport

logger = logging.get_logger(__name__)

AS_SUITS = 0  # used where no batch size is named; transformers would make it 1


class ApexPopularityPipeline(ChunkPipeline):
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

    The call takes the options of [`ScoreOptions`] too, and `batch_size`: segments that the model gets at once, across
    songs. Scores do not depend on it. By default as many as suit the threads of a CPU where it reads ahead, and 1
    elsewhere.

    A list returns a list of reports; a generator or dataset returns an iterator, so that nothing piles up.

    Attributes:
        scorer ([`SongScorer`]): What does all of this; the pipeline is transformers' door to it.
    """

    # The feature extractor follows from the model's config, so a folder that lacks its file still loads.
    _load_feature_extractor = _load_tokenizer = _load_processor = False
    _load_image_processor = _load_video_processor = False
    # What reports call the model, and its commit on the Hub.
    model_id = property(lambda self: self.scorer.model_id)
    model_revision = property(lambda self: self.scorer.model_revision)

    def __init__(self, model: Any, feature_extractor: Any = None, **kwargs: Any):
        if getattr(model.config, "is_whole_song", False):
            feature_extractor = None  # nothing cuts its songs
        elif feature_extractor is None:
            feature_extractor = ApexFeatureExtractor.from_config(model.config)
        elif isinstance(feature_extractor, (str, Path)):
            feature_extractor = ApexFeatureExtractor.from_pretrained(feature_extractor)
        kwargs["batch_size"] = kwargs.get("batch_size") or AS_SUITS
        super().__init__(model=model, feature_extractor=feature_extractor, **kwargs)
        self.scorer = SongScorer(model, feature_extractor=feature_extractor)
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

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return split_options(**options)

    def preprocess(self, inputs: Any, **options: Any) -> Iterator[dict[str, Any]]:
        return self.scorer.read(inputs, **options)

    def _forward(self, batch: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        return self.scorer.encode(batch, **options)

    def postprocess(self, outputs: list[dict[str, Any]], **options: Any) -> SongReport:
        return self.scorer.report(outputs, **options)

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, *options_of_steps: dict[str, Any]
    ) -> "_Reports":
        """Return the iterator over reports: the scorer's, through the steps above; a thread stands for workers."""
        options, forward_options, postprocess_options = map(dict, options_of_steps)
        read_ahead = options.pop("read_ahead", num_workers > 0 or getattr(inputs, "may_read_ahead", True))
        run = functools.partial(
            self.scorer.run,
            inputs,
            functools.partial(self.preprocess, **options),
            functools.partial(self.forward, **forward_options),
            functools.partial(self.postprocess, **postprocess_options),
            batch_size=batch_size,
            read_ahead=read_ahead,
        )
        return _Reports(inputs, run)


class _Reports:
    """Reports as transformers gives results: they have a length where songs have one, and an iteration begins anew."""

    def __init__(self, songs: Any, run: Callable[[], Iterator[SongReport]]):
        self._songs, self._run = songs, run
        self._reports: Iterator[SongReport] | None = None

    def __len__(self) -> int:
        return len(self._songs)

    def __iter__(self) -> "_Reports":
        self._reports = self._run()
        return self

    def __next__(self) -> SongReport:
        self._reports = self._reports or self._run()
        return next(self._reports)


class _SongStream(IterableDataset[Any]):
    """Songs as they come: transformers takes a dataset lazily, but no iterator that is not a generator."""

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
    audio: Any = (getattr(dataset, "features", None) or {}).get(column)
    if getattr(audio, "decode", False):
        dataset = dataset.cast_column(column, type(audio)(decode=False))
    yield from dataset
