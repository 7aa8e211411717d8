"""
The commands that `kill_runs.py` kills: for each, inputs that take it seconds, how it is run and taken up again, and
how its output is told from that of an undisturbed run.
"""

import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

for folder in ("../..", "..", "../training", "../datasets_scripts", "../hub_card", "../arena"):
    sys.path.insert(0, str((Path(__file__).parent / folder).resolve()))
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="Agg")

import accelerate  # noqa: F401, E402
import datasets  # noqa: F401, E402
import huggingface_hub  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from source_trees import encode_song, make_song, make_suno_row, save_json_lines  # noqa: E402
from test_arena_command import write_battles  # noqa: E402
from transformers.pipelines import pipeline  # noqa: F401, E402

import datasets_scripts.build  # noqa: E402
import hub_card.publish  # noqa: E402
import modeling_apex.cli  # noqa: E402
import modeling_apex.training.train  # noqa: E402
from datasets_scripts.parquet_folder import LEDGER_NAME  # noqa: E402
from modeling_apex import ApexFeatureExtractor, ApexModel  # noqa: E402
from modeling_apex.corpus.embedding_manifest import build_identity  # noqa: E402

from loopback_hub import LoopbackHub  # noqa: E402
from published_layout import write_apex_folder, write_mert_folder  # noqa: E402
from result_layouts import make_recipe_results  # noqa: E402
from song_folders import make_wav, write_dataset, write_embeddings  # noqa: E402

# What stands for the folder of temporary files, which is the system's to clean up after a kill.
TEMPORARY_NAME = "temporary"


@dataclass(frozen=True)
class Job:
    """
    One command on one output.

    Args:
        run (`Callable[[Path], int]`):
            Runs the command on an output, or goes on with it; returns the exit status.
        list_rows (`Callable[[Path], list[str]]`):
            Names the rows of a finished output.
        list_files (`Callable[[Path], list[Path]]`):
            The files whose bytes must be those of an undisturbed run.
        list_folders (`Callable[[Path], list[Path]]`):
            The folders that must be whole or not there at any moment.
    """

    run: Callable[[Path], int]
    list_rows: Callable[[Path], list[str]]
    list_files: Callable[[Path], list[Path]]
    list_folders: Callable[[Path], list[Path]] = lambda output: []

    def compute_hash(self, output: Path) -> str:
        """Hash names and bytes of the files that count."""
        digest = hashlib.sha256()
        for path in sorted(self.list_files(output)):
            digest.update(f"{path.relative_to(output.parent).parts[1:]}{path.stat().st_size}".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()


def run_command(main: Callable[[], int], *words: object) -> int:
    """Run a command as the process of its own that it is: what handles signals is a process, not a call."""
    sys.argv = ["command", *map(str, words)]
    return main()


def build_score_job(folder: Path, model: Path, *options: str) -> Job:
    """Score 150 short files to JSONL."""
    songs = folder / "songs"
    songs.mkdir()
    for number in range(150):
        (songs / f"{number:03}.wav").write_bytes(make_wav(number, 0.1 + 0.1 * (number % 4)))
    words = ["score", str(songs), "--model", str(model), *options, "--output"]
    return Job(
        run=lambda output: run_command(modeling_apex.cli.main, *words, output.with_suffix(".jsonl")),
        list_rows=lambda output: [
            json.loads(line)["song"] for line in output.with_suffix(".jsonl").read_text().splitlines()
        ],
        list_files=lambda output: [output.with_suffix(".jsonl")],
    )


def build_processes_job(folder: Path, model: Path) -> Job:
    """Score the same files in two processes."""
    job = build_score_job(folder, model, "--num-processes", "2")

    def run(output: Path) -> int:
        # The processes would import the program that kills this one as their own.
        vars(sys.modules["__main__"]).pop("__file__", None)
        return job.run(output)

    return replace(job, run=run)


def build_embed_job(folder: Path, model: Path) -> Job:
    """Embed a dataset of 120 songs, one of them broken, four songs a shard."""
    dataset = write_dataset(folder / "dataset", {"train": 96, "validation": 24}, broken=("train-song-7",))
    words = ["embed", str(dataset), "--model", str(model), "--songs-per-shard", "4", "--output"]

    def run(output: Path) -> int:
        return {1: 0}.get(status := run_command(modeling_apex.cli.main, *words, output), status)  # 1: the broken song

    def list_rows(output: Path) -> list[str]:
        tables = [pq.read_table(path, columns=["id", "segment_index"]) for path in output.glob("*.parquet")]
        return [f"{row['id']}/{row['segment_index']}" for table in tables for row in table.to_pylist()]

    def list_files(output: Path) -> list[Path]:  # but the records of what the dataset's own times were
        return [path for path in output.iterdir() if path.is_file() and not path.name.endswith(".audio.json")]

    return Job(run, list_rows, list_files)


def build_train_job(folder: Path, model: Path) -> Job:
    """Train heads for three epochs on stored embeddings."""
    loaded = ApexModel.from_pretrained(model)
    identity = build_identity(loaded, dtype="float32", resampler="sinc")
    sizes = {"train": 80, "validation": 40, "test": 20}
    embeddings = write_embeddings(folder / "embeddings", sizes, identity, model=str(model))
    words = ["train", str(embeddings), "--num-epochs", "3", "--batch-size", "32", "--report-to", "none", "--output"]

    def run(output: Path) -> int:
        has_run = (output / "arguments.json").is_file()
        return run_command(modeling_apex.cli.main, *words, output, *(["--resume"] if has_run else []))

    def list_files(output: Path) -> list[Path]:
        return [output / "metrics.jsonl", *(output / "best").iterdir()]

    def list_rows(output: Path) -> list[str]:
        lines = (output / "metrics.jsonl").read_text().splitlines()
        return [f"epoch {json.loads(line)['epoch']}" for line in lines]

    return Job(run, list_rows, list_files, lambda output: [output / "best"])


def build_build_job(folder: Path, model: Path) -> Job:
    """Build a dataset of 80 songs with their audio, in shards of about six songs."""
    tree = folder / "tree"
    (tree / "audio").mkdir(parents=True)
    rows = [make_suno_row(number) for number in range(80)]
    save_json_lines(tree / "songs.jsonl", rows)
    for number, row in enumerate(rows):
        (tree / "audio" / f"{row['id']}.flac").write_bytes(encode_song(make_song(number)))
    words = ["training", "--source", str(tree / "songs.jsonl"), str(tree / "audio"), "suno", "--max-shard-size", "0.1"]
    words += ["--split-method", "quota"]

    def list_rows(output: Path) -> list[str]:
        tables = [pq.read_table(path, columns=["id"]) for path in (output / "data").glob("*.parquet")]
        return [name for table in tables for name in table["id"].to_pylist()]

    return Job(
        run=lambda output: run_command(datasets_scripts.build.main, *words, "--output", output),
        list_rows=list_rows,
        # What a build notes of the places of its sources depends on the moment.
        list_files=lambda output: [path for path in output.rglob("*") if path.is_file() and path.name != LEDGER_NAME],
    )


def list_all(output: Path) -> list[Path]:
    """List the files below an output."""
    return [path for path in output.rglob("*") if path.is_file()]


def list_names(output: Path) -> list[str]:
    """Name the files below an output."""
    return [str(path.relative_to(output)) for path in list_all(output)]


def build_arena_job(folder: Path, model: Path) -> Job:
    """Score the songs of twelve battles and compare two baselines on them."""
    battles = write_battles(folder / "battles")
    options = ["--no-plots", "--num-folds", 2, "--num-draws", 100, "--classifiers", "logistic_regression"]
    words = ["arena", battles, "--model", model, *options, "--protocols", "random_folds", "--output"]

    def list_rows(output: Path) -> list[str]:
        lines = (output / "battle_scores.jsonl").read_text().splitlines()
        return [str(json.loads(line).get("battle_uuid")) for line in lines]

    return Job(lambda output: run_command(modeling_apex.cli.main, *words, output), list_rows, list_all)


def build_conditions_job(folder: Path, model: Path) -> Job:
    """Train and evaluate two of the 24 conditions."""
    identity = build_identity(ApexModel.from_pretrained(model), dtype="float32", resampler="sinc")
    sizes = {"train": 60, "validation": 20, "test": 20}
    embeddings = write_embeddings(folder / "embeddings", sizes, identity, model=str(model))
    only = ["song-full-uncertainty-2", "segment-popularity-equal-3"]
    options = ["--model", model, "--num-epochs", 2, "--batch-size", 16, "--report-to", "none"]
    words = ["conditions", embeddings, "--only", *only, *options, "--output"]

    def list_files(output: Path) -> list[Path]:
        compared = output / "compared.json"  # the results name the output, which is another each time
        compared.write_text((output / "results.json").read_text().replace(str(output), "OUTPUT"))
        return [compared, *output.glob("*/best/*")]

    return Job(
        run=lambda output: run_command(modeling_apex.cli.main, *words, output),
        list_rows=lambda output: list(json.loads((output / "results.json").read_text())),
        list_files=list_files,
        list_folders=lambda output: list(output.glob("*/best")),
    )


def run_unless_whole(output: Path, *words: object) -> int:
    """Run what writes a new folder; one that holds anything is whole."""
    if (output / "config.json").is_file():
        return 0
    return run_command(modeling_apex.cli.main, *words, "--output", output)


def build_folder_job(*words: object) -> Job:
    """Run a command that writes a new folder."""
    return Job(lambda output: run_unless_whole(output, *words), list_names, list_all, lambda output: [output])


def build_convert_job(folder: Path, model: Path) -> Job:
    """Convert the layout that the authors published."""
    write_mert_folder(folder / "mert")
    width = json.loads((folder / "mert" / "config.json").read_text())["hidden_size"]
    write_apex_folder(folder / "apex", str(folder / "mert"), width, segment_sec=1)
    return build_folder_job("convert", "--encoder", folder / "mert", "--heads", folder / "apex")


def build_export_job(folder: Path, model: Path) -> Job:
    """Export a model with its code."""
    return build_folder_job("export", "--model", model)


def build_calibrate_job(folder: Path, model: Path) -> Job:
    """Copy a model and calibrate it on 20 songs, of which there must be so many."""
    dataset = write_dataset(folder / "dataset", {"validation": 20})
    return build_folder_job("calibrate", model, dataset)


def build_publish_job(folder: Path, model: Path) -> Job:
    """Publish a model, as one commit to a repository of the output's own."""
    hub = LoopbackHub()
    hub.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is killed hangs up
    threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    release = folder / "release"
    loaded = ApexModel.from_pretrained(model)
    loaded.config.provenance = {"name": "apex-tiny", "notice": "demonstration model, trained on synthetic songs"}
    loaded.save_pretrained(release)
    ApexFeatureExtractor.from_config(loaded.config).save_pretrained(release)
    (release / "results.json").write_text(json.dumps(make_recipe_results(loaded.config.head_names)))

    def name_repository(output: Path) -> str:
        """Name the repository of an output, by a folder in it; a new output has a new one."""
        if not output.is_dir():
            (output / f"apex-{time.monotonic_ns()}").mkdir(parents=True)
        return f"tester/{next(output.glob('apex-*')).name}"

    def run(output: Path) -> int:
        # Where a kill leaves what was to be sent; the output is the repository.
        tempfile.tempdir = str(output.parent / TEMPORARY_NAME)
        (output.parent / TEMPORARY_NAME).mkdir(exist_ok=True)
        huggingface_hub.constants.HF_HUB_OFFLINE = False
        huggingface_hub.constants.HF_HUB_DISABLE_XET = True
        huggingface_hub.constants.ENDPOINT = hub.url
        huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        os.environ |= {"HF_TOKEN": hub.write_token, "HF_ENDPOINT": hub.url}
        words = ["--model", release, "--no-arena-because", "no battles were at hand.", "--repo"]
        return run_command(hub_card.publish.main, *words, name_repository(output))

    def list_rows(output: Path) -> list[str]:
        return [*hub.get_files(name_repository(output)), *hub.get_repository(name_repository(output)).messages]

    def list_files(output: Path) -> list[Path]:
        held = output / "held"
        for name, content in hub.get_files(name_repository(output)).items():
            (held / name).parent.mkdir(parents=True, exist_ok=True)
            # The card names its repository, whose name is another for each output.
            (held / name).write_bytes(content.replace(name_repository(output).encode(), b"REPOSITORY"))
        return [path for path in list_all(held) if path.name != "SHA256SUMS"]

    return Job(run, list_rows, list_files)


BUILDERS: dict[str, Callable[[Path, Path], Job]] = {
    "score": build_score_job,
    "score --num-processes": build_processes_job,
    "embed": build_embed_job,
    "train": build_train_job,
    "build": build_build_job,
    "arena": build_arena_job,
    "conditions": build_conditions_job,
    "convert": build_convert_job,
    "export": build_export_job,
    "calibrate": build_calibrate_job,
    "publish": build_publish_job,
}
