"""FMA: three header rows are read, songs of an artist stay together, another table is refused."""

import csv

import pytest
from source_trees import FMA_HEADER, save_fma_tree

from datasets_scripts.fma import Fma, iterate_fma_songs
from datasets_scripts.song_record import CorpusOptions
from datasets_scripts.splits import SPLIT_NAMES
from modeling_apex.storage.table_reader import TableError


def test_rows_of_the_table(fma_tree, tmp_path):
    options = CorpusOptions(group_by=("creator", "audio"), split_ratios=(50, 25, 25), split_method="quota")
    builder = Fma(tracks=str(fma_tree / "tracks.csv"), audio=str(fma_tree / "audio"), corpus=options)
    corpus = builder.build_corpus(tmp_path)
    rows = {
        row["id"]: row | {"split": split}
        for split in SPLIT_NAMES
        for table in corpus.iterate_tables(split)
        for row in table.to_pylist()
    }
    assert len(rows) == 11
    assert corpus.num_dropped["without audio file"] == 1
    song = rows["1402"]
    assert (song["play_count"], song["like_count"], song["creator"], song["title"]) == (102, 2, "0", "Song, 2")
    assert song["created_at"] == "2008-11-26T01:48:12Z"
    assert song["platform"] == "fma"
    assert song["audio"]["path"] == "001402.mp3"
    for artist in range(4):
        assert len({row["split"] for row in rows.values() if row["creator"] == str(artist)}) == 1


def test_the_table_alone_gives_a_dataset_without_audio(tmp_path):
    save_fma_tree(tmp_path)
    options = CorpusOptions(needs_audio=False, split_ratios=(1, 0, 0))
    corpus = Fma(tracks=str(tmp_path / "tracks.csv"), corpus=options).build_corpus(tmp_path)
    assert sum(corpus.num_songs.values()) == 12


def save_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["id", "plays"], ["1", "2"]], "lacks the three header rows .* Its columns: none"),
        (
            [FMA_HEADER[0][:4], FMA_HEADER[1][:4], ["track_id"]],
            r"track\.listens, .* missing\. Its columns: album\.date",
        ),
        ([*FMA_HEADER, ["x", *["1"] * 9]], r"tracks\.csv:4: the id is 'x', expected a number"),
        ([*FMA_HEADER, ["1", "2"]], r"tracks\.csv:4 has 2 cells, fewer than the header"),
        ([*FMA_HEADER, ["1", "", "", "", "", "", "", "1", "-5", ""]], r"tracks\.csv:4: track\.listens is '-5'"),
    ],
)
def test_refusals(tmp_path, rows, message):
    with pytest.raises(TableError, match=message):
        list(iterate_fma_songs(save_table(tmp_path / "tracks.csv", rows)))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No FMA table at .*: give the file tracks\.csv"):
        list(iterate_fma_songs(tmp_path / "tracks.csv"))
