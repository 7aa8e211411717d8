"""
Corpus embedding: a dataset or a folder of audio to stored segment embeddings (rooms 1 to 6, for many songs).

What comes in are songs; what leaves is a folder of Parquet shards, one row a segment, and a manifest. The work is cut
into blocks of consecutive songs, one shard each: a shard appears whole, with the failures among its songs, or not at
all. That is the whole journal: an interrupted run does again only the blocks that have no shard, and processes share
the work by taking every n-th block.
"""

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from modeling_apex import __version__
from modeling_apex.corpus.embedding_manifest import (
    MANIFEST_NAME,
    build_identity,
    load_manifest,
    refuse_other_identity,
    save_json,
)
from modeling_apex.corpus.song_decoding import BackgroundDecoder, DecodedSegment
from modeling_apex.corpus.song_source import Song, SongSource, compute_source_fingerprint, open_song_source
from modeling_apex.engines import check_engine
from modeling_apex.engines.choice import choose_encoder
from modeling_apex.engines.encoder_graph import is_engine_folder, load_exported_model
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.worker_threads_apex import count_workers
from modeling_apex.loading import load_apex_model
from modeling_apex.storage.output_folder import replace_text
from modeling_apex.storage.output_lock import OutputLock

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD_METADATA = b"apex"
FAILURES_NAME = "failures.jsonl"
BARRIER_TIMEOUT = timedelta(days=7)  # a process may wait long for the others' last shards


@dataclass(frozen=True)
class EmbeddingSummary:
    """
    What a corpus embedding came to.

    Args:
        folder (`Path`):
            Where the shards lie.
        num_songs (`int`):
            Songs with embeddings.
        num_segments (`int`):
            Rows.
        failures (`list[dict]`):
            `split`, `id` and `error` of each song that could not be embedded.
    """

    folder: Path
    num_songs: int
    num_segments: int
    failures: list[dict[str, str]]


@dataclass(frozen=True)
class _Block:
    """Consecutive songs of one split: the work behind one shard."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def shard_name(self) -> str:
        return f"{self.split}-{self.number:05d}.parquet"


@dataclass
class _SongRows:
    """The segments of one song while it is being encoded."""

    song: Song
    num_real_samples: list[int] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    error: str | None = None


def embed_songs(
    source: str | os.PathLike | SongSource,
    output: str | os.PathLike,
    model: str | os.PathLike | ApexModel,
    *,
    dtype: str = "float32",
    engine: str = "torch",
    precision: str = "float32",
    compile: bool = False,
    resampler: str = "sinc",
    limits: AudioLimits | None = None,
    songs_per_shard: int = 256,
    batch_size: int | None = None,
    num_decoders: int = 1,
    retry_failures: bool = False,
    show_progress: bool = False,
) -> EmbeddingSummary:
    """
    Embed every song of a source, or go on where an interrupted run stopped.

    Under `torchrun` or `accelerate launch`, every process calls this and the songs are shared.

    Args:
        source (`str`, `os.PathLike` or [`SongSource`]):
            A dataset folder, a folder of audio, or a Hub dataset id.
        output (`str` or `os.PathLike`):
            Folder for shards and manifest; a new one, or that of an interrupted run with the same settings.
        model (`str`, `os.PathLike` or [`ApexModel`]):
            Folder, Hub id or loaded float32 model; its encoder makes the embeddings.
        dtype (`str`, defaults to `"float32"`):
            Precision of the encoder: `"float32"`, `"bfloat16"` or `"float16"`. Embeddings are stored in float32.
        engine (`str`, defaults to `"torch"`), precision (`str`, defaults to `"float32"`), compile (`bool`, defaults
            to `False`): As for `load_pipeline`; instead of `dtype`.
        resampler (`str`, defaults to `"sinc"`), limits ([`AudioLimits`], *optional*):
            As in the pipeline. Songs beyond the limits are failures; with other limits, `retry_failures` takes them
            up again.
        songs_per_shard (`int`, defaults to 256):
            Songs in a shard; what a killed process loses at most.
        batch_size (`int`, *optional*):
            Segments encoded at once. By default what suits the threads of a CPU, 32 on an accelerator.
        num_decoders (`int`, defaults to 1):
            Threads that decode.
        retry_failures (`bool`, defaults to `False`):
            Whether to try songs again that failed before.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`EmbeddingSummary`]: of the whole folder, in every process.

    Raises:
        `ValueError`: If the folder holds embeddings of another model, precision or source, or an option is wrong.
        `FileNotFoundError`: If the source or the model leads nowhere.
        [`OutputInUseError`]: If another run is writing the folder.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    for name, value in (("songs_per_shard", songs_per_shard), ("num_decoders", num_decoders)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    check_engine(engine, precision, compile=compile)
    has_engine = engine != "torch" or precision != "float32" or compile
    if has_engine and dtype != "float32":
        raise ValueError(f"`dtype` {dtype!r} is for the default path; with an engine, name a `precision`.")
    state = _start_processes()
    songs = open_song_source(source) if isinstance(source, (str, os.PathLike)) else source
    model_id = os.fspath(model) if isinstance(model, (str, os.PathLike)) else str(model.config._name_or_path)
    encoder: Any
    if isinstance(model, (str, os.PathLike)) and is_engine_folder(model):
        encoder = load_exported_model(model)
    elif isinstance(model, (str, os.PathLike)):
        encoder = load_apex_model(model_id)
    else:
        encoder = copy.deepcopy(model)  # the caller's keeps its precision and device
    manifest: dict[str, Any] = {
        "model": model_id,
        "identity": build_identity(encoder, dtype=dtype, resampler=resampler, engine=engine, precision=precision),
        "source": {"name": songs.name, "splits": dict(songs.splits), "ids_sha256": compute_source_fingerprint(songs)},
        "songs_per_shard": songs_per_shard,
        "code_version": __version__,
        "is_complete": False,
    }
    device = state.device if engine == "torch" else torch.device("cpu")
    encoder.to(device).eval()
    encoder.segments_per_pass = batch_size or (None if device.type == "cpu" else 32)
    batch_size = encoder.segments_per_pass or count_workers()
    if has_engine or (device.type == "cuda" and dtype == "float32"):
        with state.local_main_process_first():  # it exports the graph, if one is needed; the others find it
            encoder.encoder_engine = choose_encoder(encoder, engine, precision, compile=compile)
    folder = Path(output)
    with ExitStack() as stack:
        if state.is_main_process:  # for all processes of this run
            stack.enter_context(OutputLock(folder))
            _open_folder(folder, manifest)
        state.wait_for_everyone()

        blocks = _plan_blocks(songs, songs_per_shard)
        remaining = [block for block in blocks if not _is_done(folder / block.shard_name, manifest, retry_failures)]
        if remaining and state.is_main_process:
            # A finished folder that is worked on again is unfinished until its manifest counts the new shards.
            save_json(folder / MANIFEST_NAME, manifest)
        # No process may write a shard before all have seen which are missing, or their shares would not add up.
        state.wait_for_everyone()
        encoder.encoder.to(DTYPES[dtype])
        embedder = _Embedder(encoder, resampler, limits, batch_size, num_decoders)
        share = remaining[state.process_index :: state.num_processes]
        num_songs = sum(block.stop - block.start for block in share)
        with tqdm(total=num_songs, unit="song", disable=not (show_progress and state.is_main_process)) as progress:
            for block in share:
                rows = embedder.embed(songs, block, progress)
                _save_shard(folder / block.shard_name, rows, songs.columns, manifest["identity"], block)
        state.wait_for_everyone()
        summary = _summarize(folder, blocks)
        if state.is_main_process:
            _close_folder(folder, manifest, summary)
        state.wait_for_everyone()
    return summary


def _start_processes() -> Any:
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise ImportError('embedding needs accelerate: pip install "apex-music[train]".') from error
    # `Accelerator` reads this variable, `PartialState` does not; without it two processes on a CPU are not a group.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=BARRIER_TIMEOUT)


def _open_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Start a folder, or check that an interrupted run with the same settings left it."""
    if (folder / MANIFEST_NAME).is_file():
        found = load_manifest(folder)
        refuse_other_identity(str(folder), found["identity"], manifest["identity"])
        for name, remedy in (
            ("source", "Embed the changed source into a new folder."),
            ("songs_per_shard", "Pass the same `songs_per_shard`, or a new folder."),
        ):
            if found[name] != manifest[name] and not _is_moved(found[name], manifest[name]):
                raise ValueError(
                    f"{folder}: was started with another {name} ({found[name]!r}, now {manifest[name]!r}). {remedy}"
                )
        for leftover in folder.glob("*.writing"):
            leftover.unlink()
        return
    if folder.exists() and (not folder.is_dir() or any(folder.glob("*.parquet"))):
        raise ValueError(f"{folder}: holds files but no {MANIFEST_NAME}; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / MANIFEST_NAME, manifest)


def _is_moved(found: Any, expected: Any) -> bool:
    """Tell whether two sources are the same songs under another name."""
    return isinstance(found, dict) and {**found, "name": None} == {**expected, "name": None}


def _plan_blocks(source: SongSource, songs_per_shard: int) -> list[_Block]:
    return [
        _Block(split, number, start, min(start + songs_per_shard, num_songs))
        for split, num_songs in source.splits.items()
        for number, start in enumerate(range(0, num_songs, songs_per_shard))
    ]


def _is_done(path: Path, manifest: dict[str, Any], retry_failures: bool) -> bool:
    if not path.is_file():
        return False
    facts = read_shard_facts(path)
    refuse_other_identity(str(path), facts["identity"], manifest["identity"])
    return not (retry_failures and facts["failures"])


def read_shard_facts(path: Path) -> dict[str, Any]:
    """
    Read what a shard says about itself: `identity`, `block` and `failures`.

    Raises:
        `ValueError`: If the file is not a shard of embeddings.
    """
    metadata = pq.read_schema(path).metadata or {}
    if SHARD_METADATA not in metadata:
        raise ValueError(f"{path}: not a shard of embeddings; remove it from the folder.")
    facts: dict[str, Any] = json.loads(metadata[SHARD_METADATA])
    return facts


class _Embedder:
    """Encode the songs of a block while the next ones are being decoded."""

    def __init__(
        self, model: ApexModel, resampler: str, limits: AudioLimits | None, batch_size: int, num_decoders: int
    ):
        self._model = model
        self._extractor = ApexFeatureExtractor.from_config(model.config)
        self._resampler, self._limits = resampler, limits
        self._batch_size = batch_size
        self._num_decoders = num_decoders

    def embed(self, source: SongSource, block: _Block, progress: Any) -> list[_SongRows]:
        """Return the rows of every song of the block, in order."""
        songs = source.iterate(block.split, block.start, block.stop)
        done: list[_SongRows] = []
        batch: list[tuple[_SongRows, np.ndarray]] = []
        with BackgroundDecoder(
            songs,
            self._extractor,
            resampler=self._resampler,
            limits=self._limits,
            num_threads=self._num_decoders,
        ) as decoder:
            current: _SongRows | None = None
            for segment in decoder:
                current = current or _SongRows(segment.song)
                self._collect(current, segment, batch)
                if len(batch) == self._batch_size:
                    self._encode(batch)
                if segment.is_last:
                    done.append(current)
                    current = None
                    progress.update()
        self._encode(batch)
        for rows in done:
            if rows.error is not None:
                logger.warning("not embedded: %s: %s", rows.song.id, rows.error)
        return done

    def _collect(self, rows: _SongRows, segment: DecodedSegment, batch: list[tuple[_SongRows, np.ndarray]]) -> None:
        if segment.samples is None:
            rows.error = segment.error
        else:
            rows.num_real_samples.append(segment.num_real_samples)
            batch.append((rows, segment.samples))

    def _encode(self, batch: list[tuple[_SongRows, np.ndarray]]) -> None:
        """Encode and empty the batch. A segment that the encoder cannot bear fails its song, not its neighbours."""
        if not batch:
            return
        try:
            embeddings = list(self._compute([samples for _, samples in batch]))
        except FloatingPointError:
            embeddings = [self._compute_or_fail(rows, samples) for rows, samples in batch]
        for (rows, _), embedding in zip(batch, embeddings, strict=True):
            rows.embeddings.append(embedding)
        batch.clear()

    def _compute(self, samples: list[np.ndarray]) -> np.ndarray:
        values = torch.from_numpy(np.stack(samples))  # (n, T)
        if self._model.device.type == "cuda":
            values = values.pin_memory()  # pinned memory is copied while the GPU works
        values = values.to(self._model.device, non_blocking=True)
        with torch.inference_mode():
            return self._model.compute_segment_embeddings(values).float().cpu().numpy()  # (n, D)

    def _compute_or_fail(self, rows: _SongRows, samples: np.ndarray) -> np.ndarray:
        try:
            return self._compute([samples])[0]
        except FloatingPointError as error:
            rows.error = rows.error or str(error)
            return np.zeros(self._model.config.hidden_size, np.float32)  # never stored: the song has failed


def _save_shard(
    path: Path, songs: list[_SongRows], columns: pa.Schema, identity: dict[str, Any], block: _Block
) -> None:
    """Write a shard under another name, flush it to the disk, and only then give it its name."""
    good = [rows for rows in songs if rows.error is None]
    counts = [len(rows.embeddings) for rows in good]
    width = identity["hidden_size"]
    flat = np.concatenate([np.stack(rows.embeddings) for rows in good]) if good else np.zeros((0, width), np.float32)
    arrays: dict[str, pa.Array] = {
        "id": pa.array(np.repeat([rows.song.id for rows in good], counts).tolist(), pa.string()),
        "segment_index": pa.array([index for count in counts for index in range(count)], pa.int32()),
        "num_real_samples": pa.array([number for rows in good for number in rows.num_real_samples], pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), pa.float32()), width),
    }
    repeats = np.repeat(np.arange(len(good)), counts)
    for column in columns:
        values = pa.array([rows.song.columns[column.name] for rows in good], column.type)
        arrays[column.name] = values.take(pa.array(repeats, pa.int64()))
    facts = {
        "identity": identity,
        "block": asdict(block),
        "failures": [
            {"split": block.split, "id": rows.song.id, "error": rows.error} for rows in songs if rows.error is not None
        ],
    }
    table = pa.table(arrays).replace_schema_metadata({SHARD_METADATA: json.dumps(facts)})
    part = path.with_name(f"{path.name}.{os.getpid()}.writing")
    # Floats do not repeat: a dictionary of them would only cost time.
    dictionary = [name for name in arrays if name != "embedding"]
    try:
        with open(part, "wb") as file:
            pq.write_table(table, file, compression="lz4", use_dictionary=dictionary)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # a full disk is not helped by half a shard
        raise


def _summarize(folder: Path, blocks: list[_Block]) -> EmbeddingSummary:
    failures: list[dict[str, str]] = []
    num_songs = num_segments = 0
    for block in blocks:
        path = folder / block.shard_name
        found = read_shard_facts(path)["failures"]
        failures += found
        num_songs += block.stop - block.start - len(found)
        num_segments += pq.read_metadata(path).num_rows
    return EmbeddingSummary(folder, num_songs, num_segments, failures)


def _close_folder(folder: Path, manifest: dict[str, Any], summary: EmbeddingSummary) -> None:
    lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in summary.failures]
    replace_text(folder / FAILURES_NAME, "".join(lines))
    totals = {"num_songs": summary.num_songs, "num_segments": summary.num_segments}
    save_json(folder / MANIFEST_NAME, {**manifest, **totals, "num_failures": len(lines), "is_complete": True})


def iterate_shards(folder: Path, split: str) -> Iterator[Path]:
    """Yield the shards of a split, in order."""
    yield from sorted(folder.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9].parquet"))
