"""
Epoch time and memory of training the heads on stored embeddings, against the published design, in one run.

The published design: song embeddings loaded by pandas, a dataset that makes tensors item by item, default collation,
and one module a head. Ours: memory-mapped columns, gathered batches, grouped heads. Each runs in a process of its own,
so that its peak memory is its own; the numbers in the embeddings are random, since time and memory do not depend on
them.

    python tests/benchmarks/bench_heads.py --songs 211000 --output bench_heads.json
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN_SIZE = 768
SONGS_PER_SHARD = 8192
BATCH_SIZE = 512


def write_corpus(folder: Path, num_songs: int) -> None:
    """Write the same random song embeddings as a folder of `apex-music embed` and as one table for pandas."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from modeling_apex.configuration_apex import DEFAULT_HEADS
    from modeling_apex.training.embed import SHARD_METADATA

    embeddings = folder / "embeddings"
    embeddings.mkdir()
    identity = {"hidden_size": HIDDEN_SIZE}
    metadata = {SHARD_METADATA: json.dumps({"identity": identity, "block": {}, "failures": []})}
    generator = np.random.default_rng(0)
    writer = None
    for split, size in (("train", num_songs), ("validation", 512)):
        for number, start in enumerate(range(0, size, SONGS_PER_SHARD)):
            count = min(SONGS_PER_SHARD, size - start)
            values = pa.array(generator.standard_normal(count * HIDDEN_SIZE, dtype=np.float32))
            columns: dict[str, Any] = {
                "id": [f"{split}-{start + index}" for index in range(count)],
                "segment_index": pa.array(np.zeros(count), pa.int32()),
                "num_real_samples": pa.array(np.full(count, 720_000)),
                "embedding": pa.FixedSizeListArray.from_arrays(values, HIDDEN_SIZE),
            }
            for head in DEFAULT_HEADS:
                columns[head["name"]] = generator.uniform(head["minimum"], head["maximum"], count).astype(np.float32)
            table = pa.table(columns)
            pq.write_table(table.replace_schema_metadata(metadata), embeddings / f"{split}-{number:05d}.parquet")
            if split == "train":
                writer = writer or pq.ParquetWriter(folder / "train.parquet", table.schema)
                writer.write_table(table)
    if writer is not None:
        writer.close()
    manifest = {
        "model": "random",
        "identity": identity,
        "source": {"name": "random", "splits": {"train": num_songs, "validation": 512}, "ids_sha256": ""},
        "is_complete": True,
    }
    (embeddings / "manifest.json").write_text(json.dumps(manifest))


def build_model() -> Any:
    """Build full-size heads behind an encoder that is never run."""
    import torch

    from modeling_apex import ApexConfig, ApexModel
    from modeling_apex.configuration_apex import MERT_95M_ENCODER

    torch.manual_seed(0)
    return ApexModel(ApexConfig(encoder_config={**MERT_95M_ENCODER, "num_hidden_layers": 1}, layer_indices=[0, 1]))


def train_published(folder: Path) -> dict[str, float]:
    """One epoch of the published design."""
    import pandas
    import torch
    from torch.utils.data import DataLoader, Dataset

    model = build_model()
    names = model.config.head_names
    started = time.perf_counter()
    frame = pandas.read_parquet(folder / "train.parquet")

    class SongDataset(Dataset):
        def __len__(self) -> int:
            return len(frame)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            row = frame.iloc[index]
            labels = {name: torch.tensor(row[name], dtype=torch.float32) for name in names}
            return torch.tensor(row["embedding"], dtype=torch.float32), labels

    loaded = time.perf_counter()
    parameters = [value for name, value in model.named_parameters() if name.startswith(("shared", "branch"))]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4)
    model.train()
    for embeddings, labels in DataLoader(SongDataset(), batch_size=BATCH_SIZE, shuffle=True, drop_last=True):
        optimizer.zero_grad()
        hidden = model.shared(embeddings)
        losses = [
            torch.nn.functional.mse_loss(model.get_submodule(f"branch_{name}")(hidden), labels[name]) for name in names
        ]
        loss = torch.stack(losses).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()
    return measure(started, loaded)


def train_ours(folder: Path) -> dict[str, float]:
    """One epoch of ours."""
    import torch

    from modeling_apex.training.arguments import build_arguments
    from modeling_apex.training.embedding_store import open_embedding_store
    from modeling_apex.training.heads_task import HeadsTask
    from modeling_apex.training.loop import Progress, _train_epoch
    from modeling_apex.training.train import build_accelerator

    model = build_model()
    arguments = build_arguments(loss="equal", report_to="none", batch_size=BATCH_SIZE)
    accelerator = build_accelerator(arguments, folder)
    started = time.perf_counter()
    task = HeadsTask(open_embedding_store(folder / "embeddings"), model, arguments, accelerator)
    loaded = time.perf_counter()
    optimizer = torch.optim.AdamW(task.build_parameter_groups(arguments), weight_decay=1e-4)
    module, optimizer = accelerator.prepare(task.module, optimizer)
    _train_epoch(task, module, optimizer, arguments, accelerator, Progress())
    return measure(started, loaded)


def build_columns(folder: Path) -> dict[str, float]:
    """What ours pays once per corpus: columns from shards."""
    from modeling_apex.training.embedding_store import open_embedding_store

    started = time.perf_counter()
    open_embedding_store(folder / "embeddings")
    return measure(started, time.perf_counter())


def measure(started: float, loaded: float) -> dict[str, float]:
    ended = time.perf_counter()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "load_seconds": loaded - started,
        "epoch_seconds": ended - loaded,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory_without_mapped_files_mb": int(status["RssAnon"].split()[0]) / 1024,
    }


def run_alone(function: Callable[[Path], dict[str, float]], folder: Path, num_threads: int) -> dict[str, float]:
    """Run a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, set_threads, (num_threads,)) as pool:
        return pool.apply(function, (folder,))


def set_threads(num_threads: int) -> None:
    import torch

    torch.set_num_threads(num_threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=20_000, help="training songs (the published corpus: 211000)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="write the result as JSON")
    parser.add_argument("--folder", help="where to put the made corpus (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_corpus(folder, arguments.songs)
        columns = run_alone(build_columns, folder, arguments.threads)
        ours = run_alone(train_ours, folder, arguments.threads)
        published = run_alone(train_published, folder, arguments.threads)
    result = {
        "num_songs": arguments.songs,
        "num_threads": arguments.threads,
        "batch_size": BATCH_SIZE,
        "published": published,
        "ours": ours,
        "build_columns_once": columns,
        "published_over_ours": {key: published[key] / ours[key] for key in published},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n")


if __name__ == "__main__":
    main()
