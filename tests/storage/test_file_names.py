"""Names that become paths, and those that do not."""

import pytest

from modeling_apex.storage.file_names import check_file_name, check_relative_path


@pytest.mark.parametrize("name", ["train", "validation.v2", "Jazz & Blues", "тест", "a-b_c", ".hidden", "console"])
def test_names_stay_as_they_are(name: str) -> None:
    assert check_file_name(name, "the split") == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../victim/planted", "holds '/'"),
        ("/etc/passwd", "holds '/'"),
        ("a\\b", "holds '\\\\\\\\'"),
        ("C:x", "holds ':'"),
        ("*", r"holds '\*'"),
        ("..", "is made of dots or spaces"),
        ("", "is empty"),
        ("a\0b", "holds characters that cannot be shown"),
        ("a\x1b[2J", "holds characters that cannot be shown"),
        ("a\u202eb", "holds characters that cannot be shown"),
        ("\udcff", "holds characters that cannot be shown"),
        ("é" * 91, "is longer than 180 bytes"),
        ("NUL", "is the name of a device"),
        ("com1.parquet", "is the name of a device"),
        ("train.", "ends in a dot or a space"),
        (7, "is of type int, not text"),
        (None, "is of type NoneType, not text"),
    ],
)
def test_names_that_can_be_no_files_are_refused(name: object, why: str) -> None:
    with pytest.raises(
        ValueError, match=rf"manifest\.json: the split .* cannot be the name of a file, because it {why}"
    ):
        check_file_name(name, "manifest.json: the split")


def test_paths_stay_in_their_folder() -> None:
    assert check_relative_path("a\\b/./c d?.mp3", "the audio path") == "a/b/c d?.mp3"
    for path in ("../a", "a/../../b", "/etc/passwd", "\\\\host\\share", "C:\\a", "a\0b"):
        with pytest.raises(ValueError, match=r"the audio path '.*' leaves its folder\. Use relative paths only\."):
            check_relative_path(path, "the audio path")
    with pytest.raises(ValueError, match=r"the audio path '\\ud83d' holds characters that are not valid text"):
        check_relative_path("\ud83d", "the audio path")
    with pytest.raises(ValueError, match=r"aaa'\.\.\. is too long for a file name"):
        check_relative_path("a" * 256, "the audio path")
    with pytest.raises(ValueError, match="the audio path 7 is of type int, not a path"):
        check_relative_path(7, "the audio path")
