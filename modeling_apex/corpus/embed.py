"""
Corpus embedding: a dataset or a folder of audio to stored segment embeddings (rooms 1 to 6, for many songs).

What comes in are songs; what leaves is a folder of shards and a manifest. The work is cut into blocks of consecutive
songs, one shard each: a shard appears whole, with the failures among its songs, or not at all. That is the whole
journal: an interrupted run does again only the blocks that have no shard, or one of audio that has changed since, and
processes share the work by taking every n-th block.
"""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from modeling_apex import __version__
from modeling_apex.corpus.audio_record import AudioRecord, record_audio
from modeling_apex.corpus.embedding_manifest import (
    MANIFEST_NAME,
    build_identity,
    load_manifest,
    refuse_other_identity,
)
from modeling_apex.corpus.shards import Block, count_segments, plan_blocks, read_shard_facts, save_shard
from modeling_apex.corpus.song_decoding import DecodedSegment, decode_songs
from modeling_apex.corpus.song_source import Song, SongSource, compute_source_fingerprint, open_song_source
from modeling_apex.engines import check_engine
from modeling_apex.engines.choice import choose_encoder
from modeling_apex.engines.encoder_graph import is_engine_folder, load_exported_model
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.inference.worker_threads_apex import count_workers
from modeling_apex.loading import load_apex_model
from modeling_apex.storage.output_folder import replace_text, save_json
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.storage.source_names import hide_secrets

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAILURES_NAME = "failures.jsonl"
BARRIER_TIMEOUT = timedelta(days=7)  # a process may wait long for the others' last shards


@dataclass(frozen=True)
class EmbeddingOptions:
    """
    How songs are embedded.

    Args:
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

    Raises:
        `ValueError`: If an option has no such value, or two do not go together.
    """

    dtype: str = "float32"
    engine: str = "torch"
    precision: str = "float32"
    compile: bool = False
    resampler: str = "sinc"
    limits: AudioLimits | None = None
    songs_per_shard: int = 256
    batch_size: int | None = None
    num_decoders: int = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        for name in ("songs_per_shard", "batch_size", "num_decoders"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        check_engine(self.engine, self.precision, compile=self.compile)
        if self.has_engine and self.dtype != "float32":
            raise ValueError(f"`dtype` {self.dtype!r} is for the default path; with an engine, name a `precision`.")

    @property
    def has_engine(self) -> bool:
        return self.engine != "torch" or self.precision != "float32" or self.compile


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
        audio_sha256 (`str`):
            Hash of what the audio of all songs was.
    """

    folder: Path
    num_songs: int
    num_segments: int
    failures: list[dict[str, str]]
    audio_sha256: str


def embed_songs(
    source: str | os.PathLike | SongSource,
    output: str | os.PathLike,
    model: str | os.PathLike | ApexModel,
    *,
    retry_failures: bool = False,
    rereads: bool = False,
    show_progress: bool = False,
    **options: Any,
) -> EmbeddingSummary:
    """
    Embed every song of a source, or only what is missing or has other audio than when it was embedded.

    Under `torchrun` or `accelerate launch`, every process calls this and the songs are shared.

    Args:
        source (`str`, `os.PathLike` or [`SongSource`]):
            A dataset folder, a folder of audio, or a Hub dataset id.
        output (`str` or `os.PathLike`):
            Folder for shards and manifest; a new one, or that of a run with the same settings.
        model (`str`, `os.PathLike` or [`ApexModel`]):
            Folder, Hub id or loaded float32 model; its encoder makes the embeddings.
        retry_failures (`bool`, defaults to `False`):
            Whether to retry songs that failed before, though their audio is the same.
        rereads (`bool`, defaults to `False`):
            Whether to read audio again whose files look unchanged, and to fetch songs from their URLs again.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.
        options:
            Fields of [`EmbeddingOptions`].

    Returns:
        [`EmbeddingSummary`]: of the whole folder, in every process.

    Raises:
        `ValueError`: If the folder holds embeddings of another model, precision or source, or an option is wrong.
        `FileNotFoundError`: If the source or the model leads nowhere.
        [`OutputInUseError`]: If another run is writing the folder.
    """
    chosen = EmbeddingOptions(**options)
    state = _start_processes()
    run = _EmbeddingRun(open_song_source(source), Path(os.path.expanduser(output)), chosen, state)
    scorer = run.prepare_model(model)
    with ExitStack() as stack:
        if state.is_main_process:  # for all processes of this run
            stack.enter_context(OutputLock(run.folder))
            run.open_folder()
        state.wait_for_everyone()
        run.embed(run.list_missing(retry_failures, rereads), scorer, show_progress)
        summary = run.summarize()
        if state.is_main_process:
            run.close_folder(summary)
        state.wait_for_everyone()
    return summary


def _start_processes() -> Any:
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # `Accelerator` reads this variable, `PartialState` does not; without it two processes on a CPU are not a group.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=BARRIER_TIMEOUT)


class _EmbeddingRun:
    """One process's part in filling a folder."""

    def __init__(self, songs: SongSource, folder: Path, options: EmbeddingOptions, state: Any):
        self.songs, self.folder, self.options, self.state = songs, folder, options, state
        self.blocks = plan_blocks(songs.splits, options.songs_per_shard)
        self.manifest: dict[str, Any] = {}

    def prepare_model(self, model: str | os.PathLike | ApexModel) -> SongScorer:
        """Load the model, describe it in the manifest, and make it ready to encode."""
        options, songs = self.options, self.songs
        encoder: Any
        if not isinstance(model, (str, os.PathLike)):
            encoder = copy.deepcopy(model)  # the caller's keeps its precision and device
            model = str(model.config._name_or_path)
        else:
            encoder = load_exported_model(model) if is_engine_folder(model) else load_apex_model(os.fspath(model))
        described = {name: getattr(options, name) for name in ("dtype", "resampler", "engine", "precision")}
        fingerprint = compute_source_fingerprint(songs)
        self.manifest = {
            "model": os.fspath(model),
            "identity": build_identity(encoder, **described),
            "source": {"name": songs.name, "splits": dict(songs.splits), "ids_sha256": fingerprint},
            "songs_per_shard": options.songs_per_shard,
            "code_version": __version__,
            "is_complete": False,
        }
        device = self.state.device if options.engine == "torch" else torch.device("cpu")
        encoder.to(device).eval()
        encoder.segments_per_pass = options.batch_size or (None if device.type == "cpu" else 32)
        batch_size = encoder.segments_per_pass or count_workers()
        if options.has_engine or (device.type == "cuda" and options.dtype == "float32"):
            with self.state.local_main_process_first():  # it exports the graph, if one is needed; the others find it
                encoder.encoder_engine = choose_encoder(
                    encoder, options.engine, options.precision, compile=options.compile
                )
        encoder.encoder.to(DTYPES[options.dtype])
        return SongScorer(encoder, batch_size=batch_size)

    def open_folder(self) -> None:
        """Start a folder, or check that an interrupted run with the same settings left it."""
        folder, manifest = self.folder, self.manifest
        if (folder / MANIFEST_NAME).is_file():
            found = load_manifest(folder)
            refuse_other_identity(str(folder), found["identity"], manifest["identity"])
            for name, remedy in (
                ("source", "Embed the changed source into a new folder."),
                ("songs_per_shard", "Pass the same `songs_per_shard`, or a new folder."),
            ):
                if found[name] != manifest[name] and not _is_moved(found[name], manifest[name]):
                    raise ValueError(
                        f"{folder}: was started with another {name} ({found[name]!r}, now {manifest[name]!r}). "
                        f"{remedy}"
                    )
            for leftover in folder.glob("*.writing"):
                leftover.unlink()
            return
        if folder.exists() and (not folder.is_dir() or any(folder.glob("*.parquet"))):
            raise ValueError(f"{folder}: holds files but no {MANIFEST_NAME}; choose a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / MANIFEST_NAME, manifest)

    def list_missing(self, retry_failures: bool, rereads: bool) -> list[Block]:
        """Return the blocks without a shard that is up to date; each process looks at its share."""
        from accelerate.utils import gather_object

        share = self.blocks[self.state.process_index :: self.state.num_processes]
        found = gather_object([block for block in share if not self._is_done(block, retry_failures, rereads)])
        missing = [block for block in self.blocks if block in set(found)]
        if missing and self.state.is_main_process:
            # A finished folder that is worked on again is unfinished until its manifest counts the new shards.
            save_json(self.folder / MANIFEST_NAME, self.manifest)
        self.state.wait_for_everyone()
        return missing

    def _is_done(self, block: Block, retry_failures: bool, rereads: bool) -> bool:
        path = block.get_shard(self.folder)
        if not path.is_file():
            return False
        facts = read_shard_facts(path)
        refuse_other_identity(str(path), facts["identity"], self.manifest["identity"])
        if "audio" not in facts:
            raise ValueError(
                f"{path}: made by apex-music 0.1, which did not record the audio, so it is not known whether it is "
                f"still the same. Embed into a new folder: apex-music embed {self.songs.name} --output FOLDER"
            )
        if retry_failures and facts["failures"]:
            return False
        place = block.get_record(self.folder)
        record = record_audio(self.songs, block.split, block.start, block.stop, place, rereads=rereads)
        is_fetched = rereads and any(audio.is_address for audio in record.songs.values())
        return record.list_contents() == facts["audio"] and not is_fetched

    def embed(self, blocks: Sequence[Block], scorer: SongScorer, show_progress: bool) -> None:
        """Embed this process's share of the blocks, and wait for the others."""
        share = blocks[self.state.process_index :: self.state.num_processes]
        num_songs = sum(block.stop - block.start for block in share)
        is_shown = show_progress and self.state.is_main_process
        with tqdm(total=num_songs, unit="song", disable=not is_shown) as progress:
            for block in share:
                record = AudioRecord.start(self.songs, block.split, block.start, block.stop)
                songs = record.watch(self.songs.iterate(block.split, block.start, block.stop))
                encoded = self._encode(songs, scorer, progress)
                record.forget_changed()
                audio = record.list_contents()
                save_shard(block.get_shard(self.folder), encoded, block, self.manifest["identity"], audio)
                record.save(block.get_record(self.folder))
        self.state.wait_for_everyone()

    def _encode(self, songs: Iterator[Song], scorer: SongScorer, progress: tqdm) -> list[dict[str, Any]]:
        """Return the rows of every song, in order. A segment that the encoder cannot bear fails its song alone."""
        options, extractor, encoded = self.options, scorer.feature_extractor, []
        decode = partial(decode_songs, resampler=options.resampler, limits=options.limits)
        read = partial(_iterate_items, num_samples=extractor.segment_num_samples)
        encode = partial(scorer.encode, on_error="report")
        with closing(decode(songs, extractor, num_threads=options.num_decoders)) as segments:
            for song in scorer.run([segments], read, encode, _join_segments, read_ahead=False):
                if song["error"] is not None:
                    logger.warning("not embedded: %s", escape_controls(hide_secrets(f"{song['id']}: {song['error']}")))
                encoded.append(song)
                progress.update()
        return encoded

    def summarize(self) -> EmbeddingSummary:
        """Read from its shards what the folder holds."""
        failures: list[dict[str, str]] = []
        num_songs = num_segments = 0
        digest = hashlib.sha256()
        for block in self.blocks:
            path = block.get_shard(self.folder)
            facts = read_shard_facts(path)
            failures += facts["failures"]
            num_songs += block.stop - block.start - len(facts["failures"])
            num_segments += count_segments(path)
            digest.update(json.dumps(facts["audio"]).encode())
        return EmbeddingSummary(self.folder, num_songs, num_segments, failures, digest.hexdigest())

    def close_folder(self, summary: EmbeddingSummary) -> None:
        """Say what failed, and that the folder is finished."""
        lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in summary.failures]
        replace_text(self.folder / FAILURES_NAME, "".join(lines))
        totals = {name: getattr(summary, name) for name in ("num_songs", "num_segments", "audio_sha256")}
        totals |= {"num_failures": len(lines), "is_complete": True}
        save_json(self.folder / MANIFEST_NAME, {**self.manifest, **totals})


def _iterate_items(segments: Iterator[DecodedSegment], num_samples: int) -> Iterator[dict[str, Any]]:
    """Yield segments as the scorer encodes them; a failure as silence, which travels in a batch and is not encoded."""
    for segment in segments:
        is_real = segment.samples is not None
        values = torch.from_numpy(segment.samples)[None] if is_real else torch.zeros(1, num_samples)  # (1, T)
        facts = {"id": segment.song.id, "num_real_samples": segment.num_real_samples, "error": segment.error}
        yield {"is_last": segment.is_last, "input_values": values, "facts": facts}


def _join_segments(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the encoded segments of a song to what its shard holds of it."""
    facts = [output["facts"] for output in outputs]
    return {
        "id": facts[0]["id"],
        "error": next((fact["error"] for fact in facts if fact["error"] is not None), None),
        "num_real_samples": [fact["num_real_samples"] for fact in facts],
        "embeddings": torch.cat([output["embedding"] for output in outputs]).numpy(),  # (S, D)
    }


def _is_moved(found: Any, expected: Any) -> bool:
    """Tell whether two sources are the same songs under another name."""
    return isinstance(found, dict) and {**found, "name": None} == {**expected, "name": None}
