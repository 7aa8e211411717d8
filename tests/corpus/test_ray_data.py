"""A corpus on a cluster of Ray: the rows of one process, each once, whatever is killed."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from modeling_apex.cli import main
from modeling_apex.corpus import ray_data, ray_job
from modeling_apex.corpus.ray_data import score_corpus
from modeling_apex.corpus.ray_job import score_table, write_rows
from modeling_apex.corpus.scored_tables import SongTableScorer
from modeling_apex.storage.output_lock import OutputInUseError, OutputLock

from executed_pages import list_blocks
from waveforms import make_waveform

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.enable_socket
NUM_SONGS = 12
PAGE = Path(__file__).parents[2] / "docs" / "score-millions.md"


class KillerOfProcesses(SongTableScorer):
    """A scorer whose process dies of one song, and that fails as no song should of another."""

    def __call__(self, table: pa.Table) -> pa.Table:
        for place in table["uri"].to_pylist():
            if place.endswith("4.wav"):
                raise RuntimeError("a fault that is no song's")
            if place.endswith("7.wav"):  # the last, so that no process has to be started after it
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(table)


def fail_every_song(scorer: SongTableScorer, table: pa.Table) -> pa.Table:
    """What a job writes of songs that kill every process."""
    songs = dict(zip(table["id"].to_pylist(), table["uri"].to_pylist(), strict=True))
    return scorer.build_failed_rows(songs, ray_job.NO_RESULT)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of songs beside it, one of them broken and one not there."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(NUM_SONGS - 2):
        soundfile.write(folder / f"{number}.wav", make_waveform(0.2 + 0.05 * number, seed=number), 24_000)
    (folder / "broken.mp3").write_bytes(b"no music" * 50)
    names = [f"{number}.wav" for number in range(NUM_SONGS - 2)] + ["broken.mp3", "missing.wav"]
    pq.write_table(pa.table({"id": [f"id-{name}" for name in names], "path": names}), folder / "songs.parquet")
    return folder / "songs.parquet"


@pytest.fixture(scope="module")
def expected(table: Path, model: Path) -> list[dict[str, Any]]:
    """What one process says of the songs."""
    songs = pq.read_table(table)
    places = [str(table.parent / name) for name in songs["path"].to_pylist()]
    return SongTableScorer(model, device="cpu")(pa.table({"id": songs["id"], "uri": places})).to_pylist()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray in this process: as few CPUs and as little memory as it runs with."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S")}
    # Workers find this package, and what a test sends them, where this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ray_data.import_ray()
    ray.init("local", num_cpus=2, object_store_memory=80 * 1024**2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def read(output: Path) -> list[dict[str, Any]]:
    rows = [row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def leave_unfinished(table: Path, model: Path, place: Path, rows: list[dict]) -> None:
    """Leave a folder as a driver does that is killed in its first pass."""
    scorer = SongTableScorer(model, device="cpu")
    settings = {"weights_sha256": scorer.weights_sha256, "resampler": "sinc", "tail": None}
    job = ray_job._Job(ray, scorer, place / "out", settings)
    job.take_up(table, "id", None)
    write_rows(pa.Table.from_pylist(rows, scorer.schema), job._open())


def test_two_actors_on_two_cpus_give_the_rows_of_one_process(
    cluster: None, table: Path, model: Path, expected: list[dict], tmp_path: Path
) -> None:
    done = score_table(table, tmp_path / "out", model, num_actors=2, songs_per_block=5, device="cpu")
    assert (done.num_songs, done.num_failed) == (NUM_SONGS, 2)
    assert read(done.output) == sorted(expected, key=lambda row: row["id"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        score_table(table, tmp_path / "out", model, num_actors=1, device="cpu")


def test_a_dataset_becomes_one_of_scores(
    cluster: None, table: Path, model: Path, expected: list[dict], tmp_path: Path
) -> None:
    songs = pq.read_table(table)
    places = [str(table.parent / name) for name in songs["path"].to_pylist()]
    dataset = ray.data.from_arrow(pa.table({"id": songs["id"], "uri": places}))
    scored = score_corpus(dataset, model, num_actors=1, songs_per_block=4, device="cpu")
    assert sorted(scored.take_all(), key=lambda row: row["id"]) == sorted(expected, key=lambda row: row["id"])


def test_songs_that_kill_their_process_or_fail_oddly_become_rows(
    cluster: None, table: Path, model: Path, expected: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what an earlier run left is taken up, with other blocks; nothing of it is scored again."""
    monkeypatch.setattr(ray_data, "NUM_RETRIES", 0)  # what dies once dies here each time
    few = table.with_name("few.parquet")
    pq.write_table(pq.read_table(table).take([0, 1, 4, 5, 7]), few)
    wanted = {row["id"]: row for row in expected if row["id"] in {f"id-{number}.wav" for number in (0, 1, 4, 5, 7)}}
    leave_unfinished(few, model, tmp_path, list(wanted.values())[:2])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("pass-1.open/*.parquet")}
    kept = {path.parent.with_suffix("") / path.name: written for path, written in kept.items()}
    assert kept
    seen = {}
    gather = ray_job._Job.gather
    monkeypatch.setattr(ray_job, "BLOCK_SCORER", KillerOfProcesses)
    monkeypatch.setattr(
        ray_job._Job, "gather", lambda self: (seen.update({p: p.stat().st_mtime_ns for p in kept}), gather(self))
    )
    done = score_table(few, tmp_path / "out", model, num_actors=1, songs_per_block=1, device="cpu")
    assert seen == kept
    rows = {row["id"]: row for row in read(done.output)}
    assert (len(rows), done.num_songs, done.num_failed) == (5, 5, 2)
    for song_id, row in wanted.items():
        if song_id in ("id-4.wav", "id-7.wav"):
            assert "it could not be scored" in rows[song_id]["error"]
        else:
            assert rows[song_id] == row


def test_the_command_scores_a_table_on_the_cluster(
    cluster: None, table: Path, model: Path, expected: list[dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["score", str(table), "--backend", "ray", "--model", str(model), "--device", "cpu", "--output"]
    assert main([*words, str(tmp_path / "out"), "--num-processes", "1", "--max-seconds", "0.5"]) == 1
    too_long = [f"id-{number}.wav" for number in range(7, NUM_SONGS - 2)]
    assert f"{tmp_path / 'out'}: 7 songs scored, 5 failed" in capsys.readouterr().err
    for row, found in zip(sorted(expected, key=lambda row: row["id"]), read(tmp_path / "out"), strict=True):
        if found["id"] in too_long:
            assert "0.5 s" in found["error"]
        else:
            assert found == row


def test_the_program_of_the_page_scores_a_table(
    cluster: None, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "songs.csv").write_text(f"id,path\na,{table.parent / '0.wav'}\nb,{table.parent / 'broken.mp3'}\n")
    monkeypatch.chdir(tmp_path)
    (program,) = list_blocks(PAGE, "python")
    with pytest.raises(SystemExit) as ended:
        exec(program, {})  # noqa: S102
    assert ended.value.code == 1
    assert f"2 songs, 1 of them failed: {Path('scores')}" in capsys.readouterr().out
    assert [row["id"] for row in read(tmp_path / "scores")] == ["a", "b"]


class TestWithoutAClusterRunning:
    """What is decided before anything is sent to a cluster."""

    @pytest.fixture(autouse=True)
    def no_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process do what the actors would."""

        def score_here(job: Any, *_: object) -> None:
            rows = pa.concat_tables(job._iterate_missing())
            folder = job._open()
            write_rows(job._scorer(rows), folder)
            job._close(folder)

        monkeypatch.setattr(ray_job._Job, "run_passes", score_here)
        monkeypatch.setattr(ray_job, "running_ray", lambda *_: __import__("contextlib").nullcontext())
        monkeypatch.setattr(ray_job, "plan_workers", lambda *_: (1, 0))

    def test_what_still_runs_for_a_killed_driver_writes_nothing_that_counts(
        self, table: Path, model: Path, expected: list[dict], tmp_path: Path
    ) -> None:
        leave_unfinished(table, model, tmp_path, expected[:5])
        old = tmp_path / "out.partial" / "pass-1.open"
        assert len(list(old.glob("*.parquet"))) == 1
        done = score_table(table, tmp_path / "out", model, device="cpu")
        with pytest.raises(FileNotFoundError):
            write_rows(pa.Table.from_pylist(expected[5:]), old)
        assert read(done.output) == sorted(expected, key=lambda row: row["id"])

    @pytest.mark.parametrize("dies", [False, True])
    def test_a_row_without_a_place_costs_that_row(
        self, dies: bool, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether the process says so or dies of it, the row that it gets is known again by its id."""
        few = table.with_name("few.csv")
        few.write_text("id,path\na,\nb,0.wav\nc,n/a\n")
        if dies:
            monkeypatch.setattr(SongTableScorer, "__call__", fail_every_song)
        done = score_table(few, tmp_path / "out", model, device="cpu")
        rows = read(done.output)
        assert [row["song"] for row in rows] == ["a", str(table.parent / "0.wav"), "c"]
        if dies:
            assert [row["error"] for row in rows] == [ray_job.NO_RESULT] * 3
        else:
            assert ["expected the path or the URI" in (row["error"] or "") for row in rows] == [True, False, True]

    def test_a_block_tried_twice_is_one_file(self, expected: list[dict], tmp_path: Path) -> None:
        for _ in range(2):
            write_rows(pa.Table.from_pylist(expected), tmp_path)
        assert len(list(tmp_path.iterdir())) == 1

    def test_other_settings_are_refused(self, table: Path, model: Path, tmp_path: Path, expected: list[dict]) -> None:
        leave_unfinished(table, model, tmp_path, expected[:5])
        with pytest.raises(ValueError, match=r"other settings \(resampler 'sinc' instead of 'soxr'\)"):
            score_table(table, tmp_path / "out", model, device="cpu", resampler="soxr")
        with pytest.raises(ValueError, match=r"other settings \(weights_sha256"):
            score_table(table, tmp_path / "out", device="cpu")

    def test_rows_of_songs_that_the_table_lacks_are_refused(
        self, table: Path, model: Path, tmp_path: Path, expected: list[dict]
    ) -> None:
        leave_unfinished(table, model, tmp_path, expected[:5])
        shorter = table.with_name("shorter.parquet")
        pq.write_table(pq.read_table(table).slice(2), shorter)
        with pytest.raises(ValueError, match=r"2 songs that an unfinished run scored cannot be found in .*shorter"):
            score_table(shorter, tmp_path / "out", model, device="cpu")

    def test_songs_without_a_row_are_never_passed_over(
        self, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def score_five(job: Any, *_: object) -> None:
            folder = job._open()
            write_rows(job._scorer(next(job._iterate_missing())[:5]), folder)
            job._close(folder)

        monkeypatch.setattr(ray_job._Job, "run_passes", score_five)
        with pytest.raises(RuntimeError, match=r"has 5 rows of 5 songs where 12 were expected.*fault of this program"):
            score_table(table, tmp_path / "out", model, device="cpu")
        assert not (tmp_path / "out").exists()

    def test_a_kill_after_the_last_rename_is_taken_up(
        self, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as context:
            context.setattr(ray_job.shutil, "rmtree", lambda *_, ignore_errors=False: ignore_errors or 1 / 0)
            with pytest.raises(ZeroDivisionError):
                score_table(table, tmp_path / "out", model, device="cpu")
        assert (tmp_path / "out.partial").exists()
        done = score_table(table, tmp_path / "out", model, device="cpu")
        assert (done.num_songs, done.num_failed) == (NUM_SONGS, 2)
        assert not (tmp_path / "out.partial").exists()

    def test_a_kill_amid_the_removal_of_what_a_job_worked_with_is_taken_up(
        self, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever order the file system lists a folder in, a kill leaves what the job is known by until the end."""

        def remove_and_die(folder: Path, **_: object) -> None:
            """Remove the files of a folder, as far as a kill lets it, and leave its folders."""
            for path in Path(folder).iterdir():
                if path.is_file():
                    path.unlink()
            raise KeyboardInterrupt

        with monkeypatch.context() as context:
            gather = ray_job._Job.gather
            context.setattr(
                ray_job._Job,
                "gather",
                lambda job: (gather(job), context.setattr(ray_job.shutil, "rmtree", remove_and_die)),
            )
            with pytest.raises(KeyboardInterrupt):
                score_table(table, tmp_path / "out", model, device="cpu")
        done = score_table(table, tmp_path / "out", model, device="cpu")
        assert done.num_songs == NUM_SONGS
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    def test_a_folder_of_something_else_is_left_alone(self, table: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "mine").touch()
        with pytest.raises(ValueError, match="holds files of something else"):
            score_table(table, tmp_path / "out", model, device="cpu")

    def test_two_runs_never_share_an_output(self, table: Path, model: Path, tmp_path: Path) -> None:
        with OutputLock(tmp_path / "out", is_file=True), pytest.raises(OutputInUseError):
            score_table(table, tmp_path / "out", model, device="cpu")

    def test_workers_that_all_say_nothing_are_no_fault_of_the_songs(
        self, table: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(ray_job._Job, "_run_pass", lambda *_: None)
        monkeypatch.setattr(ray_job, "running_ray", lambda *_: __import__("contextlib").nullcontext())
        with pytest.raises(RuntimeError, match="not one of 12 songs came back from a worker"):
            score_table(table, tmp_path / "out", model, device="cpu", num_actors=1)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,path\na,x.wav\nb,y.wav\na,z.wav\n", "rows 1 and 3 have the same id, 'a'"),
            ("id,path\n,x.wav\n", r"songs.csv:2: its id is (''|None); expected text or a whole number"),
            ("id,path\n", "holds no song"),
            ("id,sound\na,x.wav\n", "has no column uri or url or path"),
        ],
    )
    def test_a_table_that_cannot_be_meant_is_refused(
        self, text: str, message: str, model: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "songs.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            score_table(tmp_path / "songs.csv", tmp_path / "out", model, device="cpu")


class FakeRay:
    """What the guards ask of Ray."""

    def __init__(self, num_cpus: int = 4, checkpoint: Any = None):
        self.num_cpus, self.asked, self.data = num_cpus, {}, self
        self.DataContext = self
        self.checkpoint_config = checkpoint

    def get_current(self) -> "FakeRay":
        return self

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.num_cpus, "GPU": 2.0}

    def ActorPoolStrategy(self, **options: int) -> dict:  # noqa: N802
        return options

    def input_files(self) -> list[str]:
        return []

    def repartition(self, **options: int) -> "FakeRay":
        self.asked |= options
        return self

    def map_batches(self, _: type, **options: Any) -> "FakeRay":
        self.asked |= options
        return self


@pytest.mark.parametrize(("num_actors", "num_cpus"), [(2, 1), (3, 0)])
def test_two_cpus_stay_free_for_what_reads(num_actors: int, num_cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(num_cpus=4)
    monkeypatch.setattr(ray_data, "import_ray", lambda: fake)
    score_corpus(fake, num_actors=num_actors, num_gpus=0.5, songs_per_block=8)
    assert fake.asked["num_cpus"] == num_cpus
    assert fake.asked["target_num_rows_per_block"] == fake.asked["batch_size"] == 8
    assert fake.asked["max_task_retries"] == 3
    assert (ray_data.count_actors(fake, 0), ray_data.count_actors(fake, 0.5)) == (2, 4)


def test_checkpoints_of_ray_that_lose_or_double_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data.checkpoint import CheckpointConfig

    for keeps, message in ((False, "deleted on success by default"), (True, "a dataset that comes from memory")):
        config = CheckpointConfig(id_column="id", checkpoint_path="/nowhere", delete_checkpoint_on_success=not keeps)
        fake = FakeRay(checkpoint=config)
        monkeypatch.setattr(ray_data, "import_ray", lambda fake=fake: fake)
        with pytest.raises(ValueError, match=message):
            score_corpus(fake, num_actors=1)


@pytest.mark.parametrize("wrong", [{"num_actors": 0}, {"num_actors": 1, "songs_per_block": 0}])
def test_numbers_that_mean_nothing_are_refused(wrong: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setattr(ray_data, "import_ray", lambda: fake)
    with pytest.raises(ValueError, match="must be at least 1, and `num_gpus`"):
        score_corpus(fake, **wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["songs.csv", "--segments", "--retry-failures"], "does not take --segments, --retry-failures: leave it out"),
        (["--songs", "songs.csv"], "does not take --songs"),
        (["songs.csv", "--shard", "1/2"], "does not take --shard"),
        (["."], r"scores one table \(.csv, .jsonl, .parquet\) .* got \.\. Name a table"),
        (["songs.csv", "songs.csv"], "scores one table"),
        (["songs.csv", "--output", "out.csv"], r"writes a folder of Parquet files, got --output out.csv"),
    ],
)
def test_the_command_refuses_what_the_runner_does_not_take(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "songs.csv").write_text("id,path\na,a.wav\n")
    assert main(["score", "--backend", "ray", "--output", "out", *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert main(["score", "songs.csv", "--address", "auto"]) == 2
    assert "--address is that of a cluster: add --backend ray" in capsys.readouterr().err


def test_workers_have_a_card_where_there_are_cards() -> None:
    fake = FakeRay()
    assert ray_data.count_cards(fake, {}) == ray_data.count_cards(fake, {"device": "cuda"}) == 1
    assert ray_data.count_cards(fake, {"device": "cpu"}) == ray_data.count_cards(fake, {"engine": "onnx"}) == 0
    assert ray_data.plan_workers(fake, {}, None, None) == (2, 1)
    assert ray_data.plan_workers(fake, {}, 5, 0.5) == (5, 0.5)
    fake.cluster_resources = lambda: {"CPU": 4}
    assert ray_data.count_cards(fake, {}) == 0


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(ImportError, match=r'pip install "apex-music\[ray\]"'):
        ray_data.import_ray()
