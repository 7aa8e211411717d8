"""
Epoch time and memory of training the heads on stored embeddings, against the published design, in one run.

The published design (arXiv 2605.03395: embeddings in Parquet, batches of 512, AdamW, gradients clipped to 1, a trunk
and seven branches) is restated in two ways, because the paper does not say how its batches are made. *By row*: a
dataset that looks up each song in a data frame and makes a tensor of each of its values, as a few lines of PyTorch and
pandas do. *By tensor*: the same, but all tensors are made at loading, which is quicker and takes twice the memory.
Both use default collation and a module for each head. Ours: columns on disk, gathered batches, grouped heads.

Times are processor seconds of the process, so that other work on the computer does not count; alone and on one thread
they are the seconds on a clock. The floor is what the matrix products of an epoch take by themselves, measured in the
same run; what is no product is measured likewise. Each part runs in a process of its own, so that its peak memory is
its own; the numbers in the embeddings are random, since time and memory do not depend on them.

    python tests/benchmarks/bench_heads.py --songs 211000 --output bench_heads.json
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine_load import add_output, measure_load, write_result

HIDDEN_SIZE = 768
SONGS_PER_SHARD = 8192
BATCH_SIZE = 512


def write_corpus(folder: Path, num_songs: int) -> None:
    """Write the same random song embeddings as a folder of `apex-music embed` with its dataset, and for pandas."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from modeling_apex.corpus.shards import SHARD_METADATA
    from modeling_apex.inference.heads_apex import DEFAULT_HEADS

    embeddings, songs = folder / "embeddings", folder / "songs"
    embeddings.mkdir()
    songs.mkdir()
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
            labels = table.select(["id", *(head["name"] for head in DEFAULT_HEADS)])
            labels = labels.append_column("audio", pa.nulls(count, pa.string()))
            pq.write_table(labels, songs / f"{split}-{number:05d}.parquet")
            pq.write_table(table.replace_schema_metadata(metadata), embeddings / f"{split}-{number:05d}.parquet")
            if split == "train":
                writer = writer or pq.ParquetWriter(folder / "train.parquet", table.schema)
                writer.write_table(table)
    if writer is not None:
        writer.close()
    manifest = {
        "model": "random",
        "identity": identity,
        "source": {"name": str(songs), "splits": {"train": num_songs, "validation": 512}, "ids_sha256": ""},
        "songs_per_shard": SONGS_PER_SHARD,
        "is_complete": True,
    }
    (embeddings / "manifest.json").write_text(json.dumps(manifest))


def build_model() -> Any:
    """Build full-size heads behind an encoder that is never run."""
    import torch

    from modeling_apex import ApexConfig, ApexModel
    from modeling_apex.inference.configuration_apex import MERT_95M_ENCODER

    torch.manual_seed(0)
    return ApexModel(ApexConfig(encoder_config={**MERT_95M_ENCODER, "num_hidden_layers": 1}, layer_indices=[0, 1]))


def build_published_loader(folder: Path, makes_tensors_at_loading: bool) -> Any:
    """Build the loader of the published design, in one of its two restatements."""
    import numpy as np
    import pandas
    import torch
    from torch.utils.data import DataLoader, Dataset

    from modeling_apex.inference.heads_apex import DEFAULT_HEADS

    names = [str(head["name"]) for head in DEFAULT_HEADS]
    frame = pandas.read_parquet(folder / "train.parquet", columns=["id", "embedding", *names])

    class RowDataset(Dataset):
        def __len__(self) -> int:
            return len(frame)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            row = frame.iloc[index]
            labels = {name: torch.tensor(row[name], dtype=torch.float32) for name in names}
            return torch.tensor(row["embedding"], dtype=torch.float32), labels

    class TensorDataset(Dataset):
        def __init__(self) -> None:
            self.embeddings = torch.from_numpy(np.stack(frame["embedding"].to_list()))
            self.labels = {name: torch.from_numpy(frame[name].to_numpy(copy=True)) for name in names}

        def __len__(self) -> int:
            return len(self.embeddings)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return self.embeddings[index], {name: values[index] for name, values in self.labels.items()}

    dataset = TensorDataset() if makes_tensors_at_loading else RowDataset()
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)


def train_published(folder: Path, makes_tensors_at_loading: bool) -> dict[str, float]:
    """One epoch of the published design."""
    import torch

    model = build_model()
    names = model.config.head_names
    clock = Clock()
    loader = build_published_loader(folder, makes_tensors_at_loading)
    clock.stop("load")
    for _ in loader:
        pass
    clock.stop("batches")
    parameters = [value for name, value in model.named_parameters() if name.startswith(("shared", "branch"))]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4)
    model.train()
    for embeddings, labels in loader:
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
    clock.stop("epoch")
    return clock.report()


def train_ours(folder: Path, mixed_precision: str) -> dict[str, float]:
    """One epoch of ours."""
    from modeling_apex.corpus.embedding_store import open_embedding_store
    from modeling_apex.training.arguments import build_arguments
    from modeling_apex.training.heads.task import HeadsTask
    from modeling_apex.training.loop import Progress, _train_epoch, build_optimizer
    from modeling_apex.training.processes import build_accelerator

    model = build_model()
    arguments = build_arguments(loss="equal", report_to="none", batch_size=BATCH_SIZE, mixed_precision=mixed_precision)
    accelerator = build_accelerator(arguments, folder)
    clock = Clock()
    task = HeadsTask(open_embedding_store(folder / "embeddings"), model, arguments, accelerator)
    clock.stop("load")
    for batch in range(task.plan_epoch(0)):
        task.load_batch(batch)
    clock.stop("batches")
    module, optimizer = accelerator.prepare(task.module, build_optimizer(task))
    _train_epoch(task, module, optimizer, Progress())
    clock.stop("epoch")
    return clock.report()


def build_columns(folder: Path) -> dict[str, float]:
    """What ours pays once per corpus: columns from shards."""
    from modeling_apex.corpus.embedding_store import open_embedding_store

    clock = Clock()
    open_embedding_store(folder / "embeddings")
    clock.stop("build")
    return clock.report()


def measure_floor(folder: Path, num_songs: int) -> dict[str, float]:
    """What the matrix products of an epoch take and nothing else: the quickest of many tries of each."""
    import torch

    from modeling_apex.inference.configuration_apex import ApexConfig
    from modeling_apex.inference.heads_apex import DEFAULT_HEADS

    config, num_heads = ApexConfig(), len(DEFAULT_HEADS)
    trunk = [HIDDEN_SIZE, *config.shared_dims]
    branch = [trunk[-1], *config.branch_dims]
    # Inputs, outputs and how many of them: the first layer of all branches is one product.
    layers = [(trunk[0], trunk[1], 1), (trunk[1], trunk[2], 1), (branch[0], num_heads * branch[1], 1)]
    layers.append((branch[1], branch[2], num_heads))
    seconds = operations = 0.0
    for number, (width, height, count) in enumerate(layers):
        inputs, weight = torch.randn(count, BATCH_SIZE, width), torch.randn(count, width, height)
        outputs = torch.randn(count, BATCH_SIZE, height)
        products = [(inputs, weight), (inputs.transpose(1, 2), outputs), (outputs, weight.transpose(1, 2))]
        for left, right in products[: 2 if number == 0 else 3]:  # embeddings need no gradient
            seconds += measure_least(torch.bmm, left, right)
            operations += 2 * count * BATCH_SIZE * width * height
    num_steps = num_songs / BATCH_SIZE
    return {
        "epoch_seconds": seconds * num_steps,
        "epoch_teraflop": operations * num_steps / 1e12,
        "gigaflops_per_second": operations / seconds / 1e9,
    }


def measure_other_operations(folder: Path, num_songs: int) -> dict[str, float]:
    """What batch norm, GELU, dropout and AdamW of an epoch take by themselves: the quickest of many tries of each."""
    import torch
    import torch.nn.functional as F

    from modeling_apex.training.grouped_heads import GroupedHeads

    heads = GroupedHeads.from_model(build_model())
    widths = [block.weight.shape[0] * block.weight.shape[1] for block in (*heads.shared, *heads.branches)]
    parameters = [values for values in heads.parameters() if values.requires_grad]
    for values in parameters:
        values.grad = torch.zeros_like(values)
    step = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4, fused=True).step
    seconds = {"AdamW": measure_least(step), "batch norm": 0.0, "GELU": 0.0, "dropout": 0.0}
    for width in widths:
        hidden, gradient = torch.randn(BATCH_SIZE, width, requires_grad=True), torch.randn(BATCH_SIZE, width)
        scale, shift = (torch.ones(width, requires_grad=True) for _ in range(2))
        normalized = F.batch_norm(hidden, None, None, scale, shift, True)
        seconds["batch norm"] += measure_least(F.batch_norm, hidden, None, None, scale, shift, True)
        seconds["batch norm"] += measure_least(normalized.backward, gradient, retain_graph=True)
        seconds["GELU"] += measure_least(F.gelu, hidden)
        seconds["GELU"] += measure_least(F.gelu(hidden).backward, gradient, retain_graph=True)
        words = torch.empty(BATCH_SIZE * width // 4, dtype=torch.int64)  # 16 bits decide for a value
        seconds["dropout"] += measure_least(words.random_, -(2**63), None)
        seconds["dropout"] += 2 * measure_least(torch.mul, gradient, gradient)  # values and their gradient by the mask
    return {f"{name}_seconds": value * num_songs / BATCH_SIZE for name, value in seconds.items()}


def measure_least(function: Callable[..., object], *arguments: Any, **options: Any) -> float:
    """Return the processor seconds of the quickest of 200 calls."""
    tries = []
    for _ in range(200):
        started = time.process_time()
        function(*arguments, **options)
        tries.append(time.process_time() - started)
    return min(tries)


class Clock:
    """Processor seconds of one part after the other, and the memory of the process."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._started = time.process_time()

    def stop(self, part: str) -> None:
        """Give the time since the last part a name."""
        now = time.process_time()
        self._parts[f"{part}_seconds"] = now - self._started
        self._started = now

    def report(self) -> dict[str, float]:
        """Return the seconds of each part, and megabytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        return {
            **self._parts,
            "peak_memory_mb": int(status["VmHWM"].split()[0]) / 1024,
            "memory_without_mapped_files_mb": int(status["RssAnon"].split()[0]) / 1024,
        }


def run_alone(function: Callable[..., dict[str, float]], num_threads: int, *arguments: Any) -> dict[str, float]:
    """Run a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, set_threads, (num_threads,)) as pool:
        return pool.apply(function, arguments)


def set_threads(num_threads: int) -> None:
    import torch

    torch.set_num_threads(num_threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=20_000, help="training songs (the published corpus: 211000)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where to put the made corpus (default: a temporary folder)")
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_corpus(folder, arguments.songs)
        threads = arguments.threads
        columns = run_alone(build_columns, threads, folder)
        ours = run_alone(train_ours, threads, folder, "no")
        ours_bf16 = run_alone(train_ours, threads, folder, "bf16")
        by_row = run_alone(train_published, threads, folder, False)
        by_tensor = run_alone(train_published, threads, folder, True)
        floor = run_alone(measure_floor, threads, folder, arguments.songs)
        others = run_alone(measure_other_operations, threads, folder, arguments.songs)
    result = {
        "num_songs": arguments.songs,
        "num_threads": threads,
        "batch_size": BATCH_SIZE,
        "published_by_row": by_row,
        "published_by_tensor": by_tensor,
        "ours": ours,
        "ours_bf16": ours_bf16,
        "floor": floor,
        "other_operations": others,
        "build_columns_once": columns,
        "by_row_over_ours": {key: by_row[key] / ours[key] for key in ours},
        "by_tensor_over_ours": {key: by_tensor[key] / ours[key] for key in ours},
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
