"""
Score a corpus on many machines with Ray Data: a dataset of songs comes in, one of scores leaves.

[`score_corpus`] is for programs that compose their own pipeline. The whole job, with what is kept and what is done
again after the driver, a worker or a node was killed, is `score_table` of `ray_job`.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

SONGS_PER_BLOCK = 64
SONGS_PER_BATCH = 16
NUM_FREE_CPUS = 2  # for what reads and counts; scorers on all of them would wait for it for ever
NUM_RETRIES = 3  # of a block whose process died; without a bound Ray tries for ever


def import_ray() -> Any:
    """
    Import Ray Data.

    Raises:
        `ImportError`: If it is not installed.
    """
    # Of a driver that was killed, what it asked for counts so long, and starves the next one on the same cluster.
    os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "20")
    try:
        import ray.data
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        reason = "which is not installed" if is_missing else f"which does not work here ({error})"
        message = f'Scoring on a cluster needs Ray Data, {reason}: pip install "apex-music[ray]".'
        raise ImportError(message) from error
    return ray


def score_corpus(
    dataset: Any,
    model: Any = None,
    *,
    num_actors: int,
    num_gpus: float = 0,
    songs_per_block: int = SONGS_PER_BLOCK,
    **options: Any,
) -> Any:
    """
    Score a dataset of Ray Data.

    Args:
        dataset (`ray.data.Dataset`):
            A row a song, with what [`SongTableScorer`] takes.
        model (`str`, `os.PathLike` or a loaded model, *optional*):
            As for [`SongTableScorer`].
        num_actors (`int`):
            Processes with a model each, at most.
        num_gpus (`float`, defaults to 0):
            Cards of each, or the part of one.
        songs_per_block (`int`, defaults to 64):
            What one failure costs, and what one file of `write_parquet` holds.
        options:
            What else [`SongTableScorer`] takes.

    Returns:
        `ray.data.Dataset`: one row per song, of the schema of [`SongTableScorer`]; nothing is scored before that.

    Raises:
        `ImportError`: If Ray Data is not installed.
        `ValueError`: If a number is too small, or Ray is to keep a checkpoint of a dataset from memory, or by default.
    """
    ray = import_ray()
    from modeling_apex.corpus.scored_tables import SongTableScorer, locate_model  # which need what Ray brings

    _refuse_lossy_checkpoint(ray, dataset)
    return map_songs(
        ray, dataset, SongTableScorer, {"model": locate_model(model), **options}, num_actors, num_gpus, songs_per_block
    )


def map_songs(
    ray: Any,
    dataset: Any,
    scorer: type,
    arguments: Mapping[str, Any],
    num_actors: int,
    num_gpus: float,
    songs_per_block: int,
    batch_size: int | None = SONGS_PER_BATCH,
) -> Any:
    """Cut a dataset into blocks and let a pool of actors work on them; with no batch size, a block is a batch."""
    if num_actors < 1 or songs_per_block < 1 or num_gpus < 0:
        raise ValueError(
            f"`num_actors` ({num_actors}) and `songs_per_block` ({songs_per_block}) must be at least 1, and "
            f"`num_gpus` ({num_gpus}) at least 0."
        )
    has_room = ray.is_initialized() and ray.cluster_resources().get("CPU", 0) >= num_actors + NUM_FREE_CPUS
    pool = {"min_size": 1, "max_size": num_actors}
    if songs_per_block == 1:
        # What waits at a process dies with it; alone means that a death tells on one song. Such a pool never grows.
        pool |= {"initial_size": num_actors, "max_tasks_in_flight_per_actor": 1}
    blocks = dataset.repartition(target_num_rows_per_block=songs_per_block)
    with warnings.catch_warnings():
        # Up to Ray 2.63 there is no other door for the number of retries; the extra keeps newer ones out.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return blocks.map_batches(
            scorer,
            fn_constructor_kwargs=dict(arguments),
            batch_format="pyarrow",
            batch_size=None if batch_size is None else min(batch_size, songs_per_block),
            compute=ray.data.ActorPoolStrategy(**pool),
            num_cpus=1 if has_room else 0,
            num_gpus=num_gpus or None,
            max_task_retries=NUM_RETRIES,
        )


def _refuse_lossy_checkpoint(ray: Any, dataset: Any) -> None:
    """Refuse the settings of Ray's own checkpoint with which rows were lost or written twice."""
    config = getattr(ray.data.DataContext.get_current(), "checkpoint_config", None)
    if config is None:
        return
    if config.delete_checkpoint_on_success:
        raise ValueError(
            "Ray's checkpoint is deleted on success by default, and the same program would then write every row "
            "twice. Set `delete_checkpoint_on_success=False`."
        )
    if not dataset.input_files():
        raise ValueError(
            "Ray never reads the checkpoint of a dataset that comes from memory, and every row would be there twice. "
            "Write the songs to a file and read that (`ray.data.read_parquet`)."
        )


def plan_workers(
    ray: Any, loading: Mapping[str, Any], num_actors: int | None, num_gpus: float | None
) -> tuple[int, float]:
    """Return how many scorers there are and how many cards each has, where a call does not say."""
    cards = count_cards(ray, loading) if num_gpus is None else num_gpus
    return num_actors or count_actors(ray, cards), cards


def count_cards(ray: Any, loading: Mapping[str, Any]) -> float:
    """Count the cards of a scorer: one where the cluster has cards, and what loads it names no other device."""
    device, engine = str(loading.get("device") or "cuda"), loading.get("engine", "torch")
    return float(ray.cluster_resources().get("GPU", 0) >= 1 and device.startswith("cuda") and engine == "torch")


def count_actors(ray: Any, num_gpus: float) -> int:
    """Count the scorers that a cluster has room for."""
    resources = ray.cluster_resources()
    found = resources.get("GPU", 0) / num_gpus if num_gpus else resources.get("CPU", 0) - NUM_FREE_CPUS
    return max(1, int(found))


@contextlib.contextmanager
def running_ray(ray: Any, address: str | None) -> Iterator[None]:
    """Run Ray for a job, with one sick block no reason to end it, and leave it as it was found."""
    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address=address)
    context = ray.data.DataContext.get_current()
    before = context.max_errored_blocks, getattr(context, "checkpoint_config", None)
    context.max_errored_blocks, context.checkpoint_config = -1, None
    try:
        yield
    finally:
        context.max_errored_blocks, context.checkpoint_config = before
        if not was_running:
            ray.shutdown()
