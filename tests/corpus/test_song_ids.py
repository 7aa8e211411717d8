"""Ids: letter by letter first, then by what programs keep of them; which of two is meant is never guessed."""

import pytest

from modeling_apex.corpus.song_ids import IdIndex, loosen_id
from modeling_apex.storage.table_reader import TableError


def build_index(*ids: str, **options: bool) -> IdIndex:
    index = IdIndex("labels.csv", **options)
    for song_id in ids:
        index.add(song_id)
    return index


@pytest.mark.parametrize(
    ("song_id", "expected"),
    [
        ("000123", "123"),
        ("123.0", "123"),
        ("000", "0"),
        ("audio/000123.WAV", "123"),
        ("a\\b.Aiff", "b"),
        ("song.v2", "song.v2"),
        ("v1.0", "v1.0"),
        ("https://example.org/x/7.mp3?key=1#t", "7"),
        ("AbC.mp3", "AbC"),
    ],
)
def test_what_programs_keep_of_an_id(song_id: str, expected: str) -> None:
    assert loosen_id(song_id) == expected


def test_letter_by_letter_comes_first() -> None:
    index = build_index("1", "001", "b.mp3", "abc", "ABC")
    assert [index.find(song) for song in ("001", "1", "b", "ABC", "abc", "Abc")] == [1, 0, 2, 4, 3, None]
    assert index.count_matches() == {"num_rows": 5, "num_matched_rows": 5, "num_songs": 6, "num_matched_songs": 5}


def test_two_rows_for_one_song_are_refused() -> None:
    with pytest.raises(TableError, match=r"labels\.csv: the rows 1 and 3 both fit the song '0001'"):
        build_index("1", "2", "001").find("0001")


def test_one_row_for_two_songs_is_refused_unless_they_may_share_it() -> None:
    index = build_index("1")
    assert index.find("1") == 0
    assert index.find("1") == 0
    with pytest.raises(TableError, match=r"labels\.csv: row 1 fits the song '001' and another one"):
        index.find("001")
    shared = build_index("a", shares_rows=True)
    assert shared.find("a.mp3") == shared.find("a.wav") == 0


def test_a_table_about_other_songs_is_refused_with_an_example_of_each_side() -> None:
    index = build_index("x1", "x2")
    index.find("y1")
    with pytest.raises(TableError, match=r"none of its 2 rows is about one of the 1 songs; .* 'x1', the songs 'y1'"):
        index.check_matches()


def test_few_matches_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    index = build_index("a", "b", "c", "d")
    assert build_index("a").check_matches() is None
    for song in ("a", "x", "y", "z"):
        index.find(song)
    warning = index.check_matches()
    assert warning is not None
    assert warning.startswith("labels.csv: only 1 of 4 rows are about one of the 4 songs")
    assert warning in caplog.text
    index.find("b")
    assert index.check_matches() is None


def test_repeated_rows_are_found() -> None:
    assert build_index("a", "b", "a", "b").find_repeated() == 2
    assert build_index("a", "A").find_repeated() is None
