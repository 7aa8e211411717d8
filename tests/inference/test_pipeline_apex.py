"""The public door: every kind of song, one answer, and what a bad song costs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from transformers import AutoFeatureExtractor, AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_apex import (
    ApexFeatureExtractor,
    ApexModel,
    ApexPopularityPipeline,
    AudioLimits,
    load_audio,
    load_pipeline,
)

from waveforms import make_waveform

SongFile = Callable[..., Path]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def scorer(tiny_model: ApexModel) -> ApexPopularityPipeline:
    return load_pipeline(tiny_model)


def values(report: dict) -> np.ndarray:
    return np.array(list(report["scores"].values()))


def test_report_of_one_file(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    path = song_file(seconds=0.35)
    report = scorer(str(path))
    assert report["song"] == str(path)
    assert list(report["scores"]) == scorer.model.config.head_names
    assert set(report["percentiles"]) == {"score_streams", "score_likes"}
    assert report["duration_seconds"] == pytest.approx(0.35)
    assert report["num_segments"] == 4
    assert report["model"] == {"id": "unsaved model", "revision": None}
    assert "segments" not in report
    assert "embedding" not in report


def test_three_doors_give_one_answer(tiny_folder: Path, song_file: SongFile) -> None:
    path = song_file("song.flac", seconds=0.77, sampling_rate=44_100, num_channels=2)
    model = AutoModel.from_pretrained(tiny_folder)
    extractor = ApexFeatureExtractor.from_config(model.config)
    by_hand = model(**extractor(load_audio(path), sampling_rate=24_000, return_tensors="pt")).scores[0]
    by_task = pipeline("apex-popularity", model=str(tiny_folder))(str(path))
    by_helper = load_pipeline(tiny_folder)(path)
    np.testing.assert_allclose(values(by_task), by_hand.detach().numpy(), **TOLERANCE)
    np.testing.assert_array_equal(values(by_task), values(by_helper))
    assert by_task["model"]["id"] == str(tiny_folder)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_and_company_change_nothing(
    scorer: ApexPopularityPipeline, song_file: SongFile, batch_size: int
) -> None:
    paths = [str(song_file(f"{row}.wav", 0.07 + 0.21 * row, seed=row)) for row in range(4)]
    alone = [scorer(path) for path in paths]
    together = scorer(paths, batch_size=batch_size)
    assert [report["song"] for report in together] == paths
    assert [report["num_segments"] for report in together] == [1, 3, 5, 7]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(values(one), values(other), **TOLERANCE)
    spread = np.ptp([values(report)[0] for report in alone])
    assert spread > 1e-2, "songs that all score the same would prove nothing"


@pytest.mark.parametrize(
    ("num_threads", "as_list", "options", "expected"),
    [
        (2, True, {}, [2, 2, 2, 1]),
        (1, True, {}, [1] * 7),
        (2, True, {"batch_size": 1}, [1] * 7),
        (2, True, {"read_ahead": False}, [1] * 7),
        (2, False, {}, [1] * 7),
        (4, False, {"read_ahead": True}, [4, 3]),
        (4, False, {"batch_size": 7}, [4, 3]),  # more than suits is no gain
    ],
)
def test_segments_come_together_as_suits_the_threads(
    scorer: ApexPopularityPipeline,
    song_file: SongFile,
    monkeypatch: pytest.MonkeyPatch,
    num_threads: int,
    as_list: bool,
    options: dict,
    expected: list[int],
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    sizes = []
    encode = scorer.model._encode
    monkeypatch.setattr(scorer.model, "_encode", lambda segments: sizes.append(len(segments)) or encode(segments))
    paths = [str(song_file(f"{row}.wav", seconds, seed=row)) for row, seconds in enumerate((0.07, 0.35, 0.12))]
    reports = list(scorer(paths if as_list else iter(paths), **options))
    assert [report["num_segments"] for report in reports] == [1, 4, 2]
    assert sizes == expected


def test_a_report_is_out_before_your_iterator_is_asked_again(
    scorer: ApexPopularityPipeline, song_file: SongFile
) -> None:
    reports = []

    def propose() -> Iterator[str]:
        for number in range(3):
            assert len(reports) == number  # the next proposal may depend on the report of the last
            yield str(song_file(f"{number}.wav", 0.3, seed=number))

    for report in scorer(propose()):
        reports.append(report)
    assert len(reports) == 3


def test_every_kind_of_source_gives_one_answer(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    path = song_file(seconds=0.3, sampling_rate=32_000)
    waveform = make_waveform(0.3, 32_000)
    expected = values(scorer(str(path)))
    with open(path, "rb") as file:
        sources = {
            "path": path,
            "bytes": path.read_bytes(),
            "file object": file,
            "audio value": {"path": None, "bytes": path.read_bytes()},
            "array": {"array": waveform, "sampling_rate": 32_000},
            "raw": {"raw": waveform, "sampling_rate": 32_000},
            "row": {"id": "song-7", "audio": {"path": str(path), "bytes": None}},
        }
        for kind, source in sources.items():
            np.testing.assert_allclose(values(scorer(source)), expected, err_msg=kind, **TOLERANCE)
    np.testing.assert_allclose(values(scorer(waveform, sampling_rate=32_000)), expected, **TOLERANCE)
    np.testing.assert_allclose(values(scorer(torch.from_numpy(waveform), sampling_rate=32_000)), expected, **TOLERANCE)
    assert scorer(sources["row"])["song"] == "song-7"


def test_a_generator_is_scored_as_it_comes(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    path = str(song_file())
    asked = []

    def songs() -> object:
        for row in range(50):
            asked.append(row)
            yield path

    reports = scorer(songs())
    next(reports)
    assert len(asked) < 5, "a generator is not to be drained before the first report"


def test_nothing_in_nothing_out(scorer: ApexPopularityPipeline) -> None:
    assert scorer([]) == []
    assert scorer(()) == []
    assert list(scorer(iter(()))) == []


def test_a_tuple_is_many_songs(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    path = str(song_file())
    assert len(scorer((path, path))) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets(scorer: ApexPopularityPipeline, song_file: SongFile, streaming: bool) -> None:
    paths = [str(song_file(f"{row}.wav", seed=row)) for row in range(3)]
    expected = [values(report) for report in scorer(paths)]
    dataset = Dataset.from_dict({"id": ["a", "b", "c"], "audio": paths}).cast_column("audio", Audio())
    if streaming:
        dataset = dataset.to_iterable_dataset()
    reports = list(scorer(dataset))
    assert [report["song"] for report in reports] == ["a", "b", "c"]
    for report, scores in zip(reports, expected, strict=True):
        np.testing.assert_allclose(values(report), scores, **TOLERANCE)


def test_a_column_of_a_dataset(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    paths = [str(song_file(f"{row}.wav", seed=row)) for row in range(2)]
    dataset = Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(decode=False))
    by_column = [values(report) for report in scorer(dataset["audio"])]
    by_key = [values(report) for report in scorer(KeyDataset(dataset, "audio"))]
    np.testing.assert_array_equal(by_column, by_key)


def test_a_dataset_without_songs_is_refused(scorer: ApexPopularityPipeline) -> None:
    with pytest.raises(ValueError, match=r"no column `audio`; it has song, plays\. Rename"):
        list(scorer(Dataset.from_dict({"song": ["a"], "plays": [1]})))


def test_timeline_embedding_and_percentiles(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    report = scorer(
        str(song_file(seconds=0.25)), return_timeline=True, return_embedding=True, return_percentiles=False
    )
    assert [(part["start_seconds"], part["end_seconds"]) for part in report["segments"]] == [
        (0.0, 0.1),
        (0.1, 0.2),
        (0.2, pytest.approx(0.25)),
    ]
    assert len(report["embedding"]) == 16
    assert "percentiles" not in report
    again = scorer.model(segment_embeddings=torch.tensor(report["embedding"])[None, None]).scores[0]
    np.testing.assert_allclose(values(report), again.detach().numpy(), **TOLERANCE)
    first = scorer({"array": make_waveform(0.25)[:2400], "sampling_rate": 24_000})
    np.testing.assert_allclose(list(report["segments"][0]["scores"].values()), values(first), **TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_bad_song_costs_one_song(
    scorer: ApexPopularityPipeline, song_file: SongFile, tmp_path: Path, batch_size: int
) -> None:
    good = [str(song_file(f"{row}.wav", 0.25, seed=row)) for row in range(3)]
    bad = tmp_path / "notes.mp3"
    bad.write_text("this is not audio")
    songs = [good[0], str(bad), good[1], str(tmp_path / "absent.mp3"), good[2]]
    reports = scorer(songs, on_error="report", batch_size=batch_size)
    assert [report["song"] for report in reports] == songs
    assert ["error" in report for report in reports] == [False, True, False, True, False]
    assert "notes.mp3" in reports[1]["error"]
    assert "absent.mp3" in reports[3]["error"]
    for row in range(3):
        np.testing.assert_allclose(values(reports[2 * row]), values(scorer(good[row])), **TOLERANCE)


def test_bad_songs_raise_by_default(scorer: ApexPopularityPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.mp3"):
        scorer([str(tmp_path / "absent.mp3")])


def test_a_song_that_breaks_the_model_costs_one_song(
    scorer: ApexPopularityPipeline, song_file: SongFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, loud = str(song_file("good.wav", 0.1)), str(song_file("loud.wav", 0.1, seed=5))
    target = scorer.feature_extractor(load_audio(loud), sampling_rate=24_000)["input_values"][0, 0]
    compute = scorer.model.compute_segment_embeddings

    def break_on_loud(inputs: torch.Tensor) -> torch.Tensor:
        if any(np.allclose(row, target, atol=1e-3) for row in inputs.numpy()):
            raise FloatingPointError("the encoder yields NaN or infinity")
        return compute(inputs)

    monkeypatch.setattr(scorer.model, "compute_segment_embeddings", break_on_loud)
    reports = scorer([good, loud, good], on_error="report", batch_size=3)
    assert ["error" in report for report in reports] == [False, True, False]
    with pytest.raises(FloatingPointError):
        scorer([good, loud])


def test_a_damaged_head_is_an_error_of_the_song(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    with torch.no_grad():
        scorer.model.branch_clarity.branch[2].bias.fill_(torch.nan)
    path = str(song_file())
    assert "a head yields NaN" in scorer([path], on_error="report")[0]["error"]
    with pytest.raises(FloatingPointError, match="a head yields NaN"):
        scorer(path)


def test_silence_is_scored_and_said(scorer: ApexPopularityPipeline) -> None:
    report = scorer({"array": np.zeros(5000, np.float32), "sampling_rate": 24_000})
    assert np.isfinite(values(report)).all()
    assert any("silent" in warning for warning in report["warnings"])


def test_soxr_is_an_option(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    path = str(song_file(sampling_rate=44_100))
    default, other = values(scorer(path)), values(scorer(path, resampler="soxr"))
    assert not np.array_equal(default, other)
    np.testing.assert_allclose(default, other, rtol=0.2)


def test_limits_are_settings(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    with pytest.raises(ValueError, match=r"limit is 0\.2 s"):
        scorer(str(song_file(seconds=0.3)), limits=AudioLimits(max_seconds=0.2))


@pytest.mark.parametrize(
    ("array", "sampling_rate", "message"),
    [
        (np.ones(5000, np.float32), 0, "must be a positive whole number of hertz, got 0"),
        (np.ones(5000, np.float32), None, "an array does not carry a sampling rate"),
        (np.ones(1, np.float32), 24_000, r"1 samples? .*at least \d+"),
        (np.ones(0, np.float32), 24_000, "holds no samples"),
        (np.full(5000, np.nan, np.float32), 24_000, "(?i)nan"),
        (np.ones(5000, np.int16), 24_000, "samples are int16, but must be floats"),
        (np.ones((6, 5000), np.float32), 24_000, "has 6 channels, but 1 to 2 are accepted"),
    ],
)
def test_arrays_that_are_no_song_are_refused(
    scorer: ApexPopularityPipeline, array: np.ndarray, sampling_rate: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(array, sampling_rate=sampling_rate)


def test_options_survive_from_construction(tiny_folder: Path, song_file: SongFile) -> None:
    scorer = pipeline("apex-popularity", model=str(tiny_folder), return_timeline=True, batch_size=2)
    assert len(scorer(str(song_file()))["segments"]) == 4


def test_unknown_options_are_refused(scorer: ApexPopularityPipeline, song_file: SongFile) -> None:
    with pytest.raises(TypeError, match=r"unexpected arguments \['timeline'\]; expected sampling_rate, resampler"):
        scorer(str(song_file()), timeline=True)
    with pytest.raises(ValueError, match="`on_error` must be one of raise, report, got 'skip'"):
        scorer(str(song_file()), on_error="skip")
    with pytest.raises(ValueError, match="cubic"):
        scorer(str(song_file()), resampler="cubic")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(tiny_folder: Path, song_file: SongFile, dtype: str) -> None:
    report = load_pipeline(tiny_folder, dtype=dtype)(str(song_file()))
    assert np.isfinite(values(report)).all()


def test_saved_pipeline_loads_again(scorer: ApexPopularityPipeline, tmp_path: Path, song_file: SongFile) -> None:
    path = str(song_file())
    scorer.save_pretrained(tmp_path / "saved")
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path / "saved"), ApexFeatureExtractor)
    again = pipeline("apex-popularity", model=str(tmp_path / "saved"), feature_extractor=str(tmp_path / "saved"))
    # Where a weight lies in memory may decide how a library sums, so equal weights give scores equal within rounding.
    np.testing.assert_allclose(values(again(path)), values(scorer(path)), rtol=1e-5)
    assert str(Path.home()) not in (tmp_path / "saved" / "config.json").read_text()


def test_helper_says_what_to_pass(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder"):
        load_pipeline(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"(?s)nobody/nowhere: no such folder.*To work offline"):
        load_pipeline("nobody/nowhere")


def test_long_songs_need_no_more_memory_than_short_ones(tiny_model: ApexModel, tmp_path: Path) -> None:
    import tracemalloc

    tiny_model.config.segment_seconds = 5.0
    scorer = load_pipeline(tiny_model)

    def peak(seconds: int) -> int:
        path = tmp_path / f"{seconds}.flac"
        with soundfile.SoundFile(path, "w", 8_000, 1) as file:
            for second in range(seconds):
                file.write(make_waveform(1.0, 8_000, seed=second % 7))
        tracemalloc.start()
        scorer(str(path))
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    peak(10)  # the first call imports and caches
    assert peak(200) - peak(20) < 2_000_000, "three minutes at 24 kHz in float32 would be 17 MB"
