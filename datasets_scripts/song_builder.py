"""
What the builders of song datasets share: a source's configuration comes in, a `datasets` builder leaves.

A builder can be used in Python like any other builder of `datasets` (`download_and_prepare`, `as_dataset`,
`as_streaming_dataset`), and it prepares itself for the build command, which writes a folder and can resume. Both read
the same [`SongCorpus`].
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa

from datasets_scripts.audio_files import AudioFolder
from datasets_scripts.dataset_card import render_song_card
from datasets_scripts.labels import LabelTable
from datasets_scripts.parquet_folder import PreparedDataset, PreparedSplit
from datasets_scripts.song_corpus import SongCorpus
from datasets_scripts.song_record import CorpusOptions, SongRecord, format_time
from datasets_scripts.song_scan import ScannedSongs
from datasets_scripts.song_schema import build_column_descriptions, build_song_features
from datasets_scripts.sources import (
    check_unchanged,
    compute_cache_key,
    identify_files,
    list_places,
    name_sources,
    save_ledger,
)
from datasets_scripts.splits import SPLIT_NAMES
from modeling_apex.corpus.identity import ContentIdentity

BUILDER_VERSION = datasets.Version("1.0.0")
DEFAULT_LICENSE = "other"


@dataclass
class SourcedConfig(datasets.BuilderConfig):
    """
    The configuration that every builder has.

    Args:
        license_id (`str`, defaults to `"other"`):
            The Hub's identifier of the licence, for the card.
        cache_key (`str`, *optional*):
            Names the content of the sources in the cache of `datasets`; found out from the files unless given.
    """

    license_id: str = DEFAULT_LICENSE
    cache_key: str | None = None

    def list_source_files(self) -> list[Path]:
        """List the local files whose rows are read."""
        return []

    def list_audio_folders(self) -> list[Path]:
        """List the folders whose audio is read."""
        return []

    def list_places(self) -> list[str]:
        """Name all that is read, for the ledger."""
        return list_places(self.list_source_files(), self.list_audio_folders())

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Return the name of the cache: it changes with the sources, or old rows would be read for ever."""
        key = self.cache_key or compute_cache_key(self.list_source_files(), self.list_audio_folders())
        return f"{super().create_config_id(config_kwargs, custom_features)}-{key}"


@dataclass
class SongDatasetConfig(SourcedConfig):
    """
    The configuration that every builder of songs has.

    Args:
        corpus ([`CorpusOptions`], *optional*):
            What to keep and how to divide it.
    """

    corpus: CorpusOptions = field(default_factory=CorpusOptions)


class SongDatasetBuilder(datasets.ArrowBasedBuilder):
    """
    The shell around a [`SongCorpus`]; subclasses say where the songs come from.

    Subclasses set `BUILDER_CONFIG_CLASS`, `PRETTY_NAME`, `INTRODUCTION`, and implement `iterate_records` and
    `describe_options`.
    """

    BUILDER_CONFIG_CLASS = SongDatasetConfig
    PRETTY_NAME: ClassVar[str]
    INTRODUCTION: ClassVar[str]
    TAGS: ClassVar[tuple[str, ...]] = ()
    EXTRA_COLUMNS: ClassVar[Mapping[str, datasets.Value]] = {}
    EXTRA_DESCRIPTIONS: ClassVar[Mapping[str, str]] = {}

    def iterate_records(self, working_folder: Path) -> Iterable[SongRecord]:
        """Stream the songs of the source."""
        raise NotImplementedError(f"{type(self).__name__} must implement `iterate_records`.")

    def open_audio_folder(self, folder: str | Path) -> AudioFolder:
        """Open a folder with audio of the songs; how many are found there goes to the manifest."""
        opened = AudioFolder(folder, allows_outside=self.config.corpus.allows_outside_paths)
        self._joins.append((opened.count_matches, opened.check_matches))
        return opened

    def join_labels(self, labels: LabelTable) -> None:
        """Take a table of labels for the songs; how many find each other goes to the manifest."""
        name: dict[str, Any] = {"source": Path(labels.index.table).name}
        if labels.teacher is not None:
            name["teacher"] = {**labels.teacher.to_json(), "num_failed_songs": labels.num_failed}
        self._joins.append((lambda: name | labels.index.count_matches(), labels.index.check_matches))

    def build_corpus(self, working_folder: Path) -> SongCorpus:
        """Scan, filter, rank and split the songs of the source."""
        return SongCorpus(self.read_sources(working_folder, {})[0], working_folder)

    def read_sources(
        self, working_folder: Path, known: Mapping[str, ContentIdentity]
    ) -> tuple[ScannedSongs, dict[str, str]]:
        """
        Scan the songs and identify all that they come from; the ledger of it goes to the working folder.

        Args:
            working_folder (`Path`):
                Where working files go.
            known (`Mapping[str, ContentIdentity]`):
                What earlier runs found at each path.

        Returns:
            `tuple[ScannedSongs, dict[str, str]]`: the songs, and the hash of each source.

        Raises:
            `ValueError`: If a table changes meanwhile, or none of its rows, or of the audio, belongs to a song.
        """
        self._joins: list[tuple[Callable[[], dict[str, Any]], Callable[[], str | None]]] = []
        places = self.config.list_places()
        tables = list(identify_files(name_sources(self.config.list_source_files()), known))
        features = build_song_features(self.EXTRA_COLUMNS)
        scanned = ScannedSongs(self.iterate_records(working_folder), self.config.corpus, features, working_folder)
        check_unchanged(tables)
        self._match_warnings = [warning for _, check in self._joins if (warning := check()) is not None]
        return scanned, save_ledger(working_folder, places, chain(tables, scanned.identify_audio(known)))

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest, without paths of this machine."""
        return {**describe_corpus_options(self.config.corpus), "license": self.config.license_id}

    def prepare(self, working_folder: Path, known: Mapping[str, ContentIdentity] | None = None) -> PreparedDataset:
        """
        Do everything but the writing; the working files of an earlier, killed run are used again.

        Args:
            working_folder (`Path`), known (`Mapping[str, ContentIdentity]`, *optional*):
                As for [`read_sources`].

        Returns:
            [`PreparedDataset`]: for `write_parquet_folder`.
        """
        scanned, sources = self.read_sources(working_folder, known or {})
        corpus = SongCorpus(scanned, working_folder)
        splits = {name: name for name in SPLIT_NAMES if corpus.num_songs[name]}
        return PreparedDataset(
            builder=str(self.dataset_name),
            features=corpus.features,
            configs={"default": {name: f"data/{name}-*" for name in splits}},
            splits={
                name: PreparedSplit(f"data/{name}", corpus.get_row_bytes(name), partial(corpus.iterate_tables, name))
                for name in splits
            },
            options=self.describe_options(),
            facts={
                "num_records": corpus.num_records,
                "num_dropped": corpus.num_dropped,
                "corrupt_songs": corpus.corrupt_songs,
                "matches": [count() for count, _ in self._joins],
                "common_prompts": corpus.common_prompts,
                "warnings": [*self._match_warnings, *corpus.warnings],
                "balance": corpus.balance,
            },
            card=self.render_card,
            sources=sources,
            digest=corpus.compute_digest(),
        )

    def render_card(self, manifest: dict[str, Any]) -> str:
        """Write the dataset card from the manifest."""
        return render_song_card(
            manifest,
            pretty_name=self.PRETTY_NAME,
            introduction=self.INTRODUCTION,
            license_id=self.config.license_id,
            tags=self.TAGS,
            columns=build_column_descriptions(self.EXTRA_DESCRIPTIONS),
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=self.INTRODUCTION,
            features=build_song_features(self.EXTRA_COLUMNS),
            license=self.config.license_id,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Lives as long as the builder, because streaming reads from it later.
        self._working_folder = tempfile.TemporaryDirectory(prefix="apex-music-")
        self._corpus = self.build_corpus(Path(self._working_folder.name))
        names = [name for name in SPLIT_NAMES if self._corpus.num_songs[name]]
        return [datasets.SplitGenerator(name=name, gen_kwargs={"split": name}) for name in names]

    def _generate_tables(self, split: str) -> Iterator[tuple[int, pa.Table]]:
        yield from enumerate(self._corpus.iterate_tables(split))


def describe_corpus_options(options: CorpusOptions) -> dict[str, Any]:
    """Return options as plain values; how many processes worked, and what was allowed, is no part of the result."""
    described = asdict(options)
    del described["num_workers"], described["allows_outside_paths"]
    described["as_of"] = format_time(options.as_of) if options.as_of else None
    described["split_ratios"] = list(options.split_ratios)
    described["group_by"] = list(options.group_by)
    return described
