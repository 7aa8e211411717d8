"""SongEval: ratings become means and spreads, and what is no rating is refused."""

import shutil
import statistics
from dataclasses import replace

import pytest
from source_trees import AESTHETIC_NAMES, make_songeval_row, save_json_lines

from datasets_scripts.song_corpus import SongCorpus
from datasets_scripts.songeval import SONGEVAL_CORPUS, SongEval, iterate_rated_songs
from datasets_scripts.splits import SPLIT_NAMES
from modeling_apex.storage.table_reader import TableError


def read_first(tmp_path, row, **columns):
    save_json_lines(tmp_path / "metadata.jsonl", [row])
    return next(iterate_rated_songs(tmp_path, columns))


def test_ratings_become_mean_and_spread(songeval_tree, tmp_path):
    options = replace(SONGEVAL_CORPUS, split_ratios=(1, 0, 0))
    corpus: SongCorpus = SongEval(source=str(songeval_tree), corpus=options).build_corpus(tmp_path)
    rows = [row for split in SPLIT_NAMES for table in corpus.iterate_tables(split) for row in table.to_pylist()]
    assert len(rows) == 12
    for row in rows:
        ratings = [min(5, 1 + (int(row["id"]) + rater) % 4) for rater in range(4)]
        for name in AESTHETIC_NAMES:
            assert row[name] == pytest.approx(statistics.mean(ratings))
            assert row[f"{name}_std"] == pytest.approx(statistics.stdev(ratings))
        assert row["num_raters"] == 4
        assert row["label_source"] == "songeval-raters"
        assert row["score_streams"] is None
        assert row["is_instrumental"] is False
        assert row["audio"]["bytes"] == (songeval_tree / "mp3" / f"{row['id']}.flac").read_bytes()


def test_a_single_rater_has_no_spread_and_raters_may_have_names(tmp_path):
    rating = dict.fromkeys(AESTHETIC_NAMES, 4)
    record = read_first(tmp_path, make_songeval_row(1, annotation={"ann": rating}))
    assert record.labels == rating
    assert record.extras["num_raters"] == 1
    assert record.extras["coherence_std"] is None


def test_columns_can_be_renamed(tmp_path):
    row = make_songeval_row(1) | {"who": "instrumental"}
    assert read_first(tmp_path, row, gender="who").is_instrumental is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotation": []}, r"metadata\.jsonl:1 has no raters"),
        ({"annotation": "good"}, r"metadata\.jsonl:1 has no raters"),
        ({"annotation": [3]}, r"metadata\.jsonl:1, rater 1 is a int, expected an object"),
        ({"annotation": [{"Coherence": 3}]}, "rater 1 lacks musicality, memorability, clarity, naturalness"),
        ({"annotation": [dict.fromkeys(AESTHETIC_NAMES, 6)]}, "rater 1: the label coherence is 6, .* from 1 to 5"),
        ({"file_name": ""}, r"metadata\.jsonl:1 names no audio file"),
        ({"file_name": "../a.mp3"}, r"metadata\.jsonl:1: the audio path '\.\./a\.mp3' leaves its folder"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_first(tmp_path, make_songeval_row(1, **changes))


def test_missing_columns_and_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No metadata table at .*metadata\.jsonl"):
        next(iterate_rated_songs(tmp_path, {}))
    with pytest.raises(TableError, match=r"no column .* \(for annotation\)\. Its columns: file_name"):
        read_first(tmp_path, {"file_name": "a.mp3"})
    with pytest.raises(ValueError, match="Unknown field 'raters': expected one of id, audio_path, gender, annotation"):
        next(iterate_rated_songs(tmp_path, {"raters": "x"}))


def test_a_song_that_occurs_twice_is_refused(songeval_tree, tmp_path):
    rows = [make_songeval_row(number) for number in (0, 1, 0)]
    shutil.copytree(songeval_tree / "mp3", tmp_path / "mp3")
    save_json_lines(tmp_path / "metadata.jsonl", rows)
    with pytest.raises(ValueError, match="The id 0 occurs twice"):
        SongEval(source=str(tmp_path)).build_corpus(tmp_path / "work")
