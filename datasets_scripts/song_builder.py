"""
What the builders of song datasets share: a source's configuration comes in, a `datasets` builder leaves.

A builder can be used in Python like any other builder of `datasets` (`download_and_prepare`, `as_dataset`,
`as_streaming_dataset`), and it prepares itself for the build command, which writes a folder and can resume. Both read
the same [`SongCorpus`].
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa

from datasets_scripts.dataset_card import render_song_card
from datasets_scripts.parquet_folder import PreparedDataset, PreparedSplit
from datasets_scripts.song_corpus import SongCorpus
from datasets_scripts.song_record import CorpusOptions, format_time
from datasets_scripts.song_schema import build_column_descriptions, build_song_features
from datasets_scripts.splits import SPLIT_NAMES

BUILDER_VERSION = datasets.Version("1.0.0")
DEFAULT_LICENSE = "other"


@dataclass
class SongDatasetConfig(datasets.BuilderConfig):
    """
    The configuration that every builder of songs has.

    Args:
        corpus ([`CorpusOptions`], *optional*):
            What to keep and how to divide it.
        license_id (`str`, defaults to `"other"`):
            The Hub's identifier of the licence, for the card.
    """

    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    license_id: str = DEFAULT_LICENSE

    def list_source_files(self) -> list[Path]:
        """List the local files whose change must lead to a new build."""
        return []

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Return the name of the cache: it changes with the source, or old rows would be read for ever."""
        state = hashlib.blake2b(digest_size=8)
        for path in self.list_source_files():
            if path.exists():
                status = path.stat()
                state.update(f"{path}\x1f{status.st_size}\x1f{status.st_mtime_ns}\x1e".encode())
        return f"{super().create_config_id(config_kwargs, custom_features)}-{state.hexdigest()}"


class SongDatasetBuilder(datasets.ArrowBasedBuilder):
    """
    The shell around a [`SongCorpus`]; subclasses say where the songs come from.

    Subclasses set `BUILDER_CONFIG_CLASS`, `PRETTY_NAME`, `INTRODUCTION`, and implement `build_corpus` and
    `describe_options`.
    """

    BUILDER_CONFIG_CLASS = SongDatasetConfig
    PRETTY_NAME: ClassVar[str]
    INTRODUCTION: ClassVar[str]
    TAGS: ClassVar[tuple[str, ...]] = ()
    EXTRA_COLUMNS: ClassVar[Mapping[str, datasets.Value]] = {}
    EXTRA_DESCRIPTIONS: ClassVar[Mapping[str, str]] = {}

    def build_corpus(self, working_folder: Path) -> SongCorpus:
        """Scan, filter, rank and split the songs of the source."""
        raise NotImplementedError(f"{type(self).__name__} must implement `build_corpus`.")

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest, without paths of this machine."""
        return {**describe_corpus_options(self.config.corpus), "license": self.config.license_id}

    def prepare(self, working_folder: Path) -> PreparedDataset:
        """
        Do everything but the writing.

        Args:
            working_folder (`Path`):
                Where working files go; those of an earlier, killed run are used again.

        Returns:
            [`PreparedDataset`]: for `write_parquet_folder`.
        """
        corpus = self.build_corpus(working_folder)
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
                "balance": corpus.balance,
            },
            card=self.render_card,
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
    """Return options as plain values; how many processes worked is no part of the result."""
    described = asdict(options)
    del described["num_workers"]
    described["as_of"] = format_time(options.as_of) if options.as_of else None
    described["split_ratios"] = list(options.split_ratios)
    described["group_by"] = list(options.group_by)
    return described
