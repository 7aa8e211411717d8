"""What keeps a folder from being published: every reason, and all of them at once."""

import bz2
import functools
import gzip
import io
import lzma
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_card.card_checks import find_card_problems, find_gaps
from hub_card.upload_checks import FolderRefusedError, check_folder, find_secrets, is_pickle

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: audio-classification\n---\n\n# A model\n"
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may go out."""
    root = tmp_path / "model"
    root.mkdir()
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text("{}")
    (root / "preprocessor_config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"weights")
    return root


def make_torch_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": 1}))
    return content.getvalue()


def test_a_clean_folder_passes(folder: Path) -> None:
    check_folder(folder)


def test_only_files_that_are_empty_by_nature_may_be_empty(folder: Path) -> None:
    for name in ("__init__.py", "py.typed", "module.py"):
        (folder / name).touch()
    with pytest.raises(FolderRefusedError) as refusal:
        check_folder(folder, repo_type="space")
    assert str(refusal.value).splitlines()[1:] == ["  - module.py: empty"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "config.json").unlink(), r"config\.json: missing"),
        (lambda root: (root / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (lambda root: (root / "README.md").unlink(), r"README\.md: missing"),
        (lambda root: (root / "model.safetensors").write_bytes(b""), r"model\.safetensors: empty"),
        (lambda root: (root / "model.safetensors").write_bytes(b"w" * 2000), r"2,000 bytes, above the limit of 1,000"),
        (lambda root: (root / "config.json").write_text("{,}"), r"config\.json: not JSON"),
        (lambda root: (root / "notes.txt").write_text("x"), r"notes\.txt: does not belong in a model folder"),
        (lambda root: (root / ".DS_Store").write_text("x"), r"\.DS_Store: a hidden or cached file"),
        (lambda root: (root / "results.json.partial").write_text("x"), "left over from unfinished work"),
        (lambda root: (root / "pytorch_model.bin").write_bytes(b"x"), r"pytorch_model\.bin: a pickle can run code"),
        (lambda root: (root / "results.json").write_bytes(pickle.dumps({})), r"results\.json: a pickle can run code"),
        (lambda root: (root / "results.json").write_bytes(make_torch_archive()), r"results\.json: a pickle can run"),
        (lambda root: (root / "LICENSE").symlink_to("/etc/hostname"), "LICENSE: a symbolic link"),
        (
            lambda root: (root / "results.json").write_text('"in /home/somebody/x"'),
            "names /home/somebody, a path on",
        ),
        (lambda root: (root / "README.md").write_text(CARD + "\nMAE: nan\n"), "unknown fact: 'nan' in line 9"),
    ],
)
def test_every_reason_is_named(folder: Path, change: Change, message: str) -> None:
    change(folder)
    with pytest.raises(FolderRefusedError, match=message):
        check_folder(folder, max_file_bytes=1000, private_paths=["/home/somebody"])


def test_all_reasons_are_told_at_once(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"x")
    (folder / "config.json").unlink()
    with pytest.raises(FolderRefusedError) as refusal:
        check_folder(folder)
    assert str(refusal.value).count("\n  - ") == 2


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        check_folder(tmp_path / "absent")


def test_a_space_may_hold_other_files(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("demo = 1\n")
    (tmp_path / "README.md").write_text("---\nsdk: gradio\n---\n\n# Demo\n")
    check_folder(tmp_path, repo_type="space")


SECRETS = {
    "hf_" + "Ab1" * 11: "a Hugging Face token",
    "ghp_" + "x1" * 18: "a GitHub token",
    "AKIA" + "ABCDEFGH12345678": "an AWS key",
    "AIza" + "a" * 35: "a Google key",
    "sk-ant-" + "b" * 40: "an OpenAI or Anthropic key",
    "xoxb-" + "1234567890-abc": "a Slack token",
    "-----BEGIN " + "PRIVATE KEY-----": "a private key",
    "https://me:hunter2" + "@example.org": "a password in an address",
}


@settings(max_examples=30, deadline=None)
@given(secret=st.sampled_from(sorted(SECRETS)), before=st.binary(max_size=60), after=st.binary(max_size=60))
def test_secrets_are_found_wherever_they_stand(
    tmp_path_factory: pytest.TempPathFactory, secret: str, before: bytes, after: bytes
) -> None:
    path = tmp_path_factory.mktemp("files") / "weights.safetensors"
    # The first byte is that of no compression, whose damaged files are refused without a search.
    path.write_bytes(b"w" + before + b" " + secret.encode() + b" " + after)
    assert SECRETS[secret] in find_secrets(path)


def test_a_secret_across_two_blocks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_card.stored_texts._BLOCK_BYTES", 1024)
    path = tmp_path / "file"
    for filler, places in ((b" ", ["line 1"]), (b"\0", [])):
        path.write_bytes(filler * 1009 + b" " + next(iter(SECRETS)).encode() + b" " * 1000)
        assert find_secrets(path) == {"a Hugging Face token": places}
        path.write_bytes(filler * 1020 + b"an odd secret" + b" " * 1000)
        assert find_secrets(path, ["an odd secret"]) == {"the token in use": places}


TOKEN = next(iter(SECRETS))


def save_cells(path: Path) -> None:
    """Text that compression hides, at several depths."""
    rows = {
        "id": [f"song-{row}" for row in range(3000)],
        "prompt": ["a song about rain"] * 2000 + [f"it says {TOKEN} here"] + ["x"] * 999,
        "audio": [{"bytes": b"RIFF" + bytes(30), "path": "a.wav"}] * 2999
        + [{"bytes": bytes(99) + TOKEN.encode(), "path": TOKEN}],
        "tags": pa.array([["rain", None]] * 2999 + [["rain", TOKEN]], pa.list_(pa.string())),
        "attributes": pa.array([[("key", TOKEN)]] + [None] * 2999, pa.map_(pa.string(), pa.string())),
        "play_count": range(3000),
    }
    table = pa.table(rows)
    field = table.schema.field("play_count").with_metadata({"note": TOKEN})
    table = table.cast(table.schema.set(table.schema.get_field_index("play_count"), field))
    pq.write_table(table, path, compression="zstd", row_group_size=700)


def test_secrets_in_cells_are_named_by_row_and_column(tmp_path: Path) -> None:
    save_cells(path := tmp_path / "train.parquet")
    assert find_secrets(path) == {
        "a Hugging Face token": [
            "schema",
            "row 1, column attributes",
            "row 2001, column prompt",
            "row 3000, column audio.bytes",
            "row 3000, column audio.path",
            "row 3000, column tags",
        ]
    }
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(FolderRefusedError) as refusal:
        check_folder(tmp_path, repo_type="dataset", needs_card=False)
    assert "train.parquet: holds a Hugging Face token (schema; row 1, column attributes; row 2001" in str(
        refusal.value
    )
    assert "and 1 more); remove it" in str(refusal.value)
    assert TOKEN not in str(refusal.value)


LINES = b'{"a": 1}\n{"a": "' + TOKEN.encode() + b'"}\n'
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in TOKEN)
# Without the time of day: what tests are called must be the same in every process that runs them.
compress_gzip = functools.partial(gzip.compress, mtime=0)
COMPRESSORS = (compress_gzip, bz2.compress, lzma.compress, zstandard.compress)


def make_zip(name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (compress_gzip(LINES), "line 2"),
        (bz2.compress(LINES), "line 2"),
        (lzma.compress(LINES), "line 2"),
        (zstandard.compress(LINES), "line 2"),
        *((compress(b"{}\n") + compress(LINES), "line 3") for compress in COMPRESSORS),
        (compress_gzip(zstandard.compress(LINES)), "line 2"),
        (make_zip("in/songs.jsonl", LINES), "in/songs.jsonl, line 2"),
        (safetensors.numpy.save({"a": np.zeros(9)}, {"note": TOKEN}), "metadata note"),
        (struct.pack("<Q", 300) + f'{{"__metadata__": {{"note": "{ESCAPED}"}}}}'.encode().ljust(300), "metadata note"),
        (f'{{"a": 1,\n "note": "{ESCAPED}"}}'.encode(), "line 2"),
        (f'{{"note": "https:\\/\\/me:hunter2\\u0040example.org", "t": "{TOKEN}"}}'.encode(), "line 1"),
        (f"\ufeffnote\n{TOKEN}\n".encode("utf-16-le"), None),
    ],
)
def test_secrets_in_what_is_compressed_or_escaped_are_found(tmp_path: Path, content: bytes, place: str | None) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert find_secrets(path)["a Hugging Face token"] == [place] * (place is not None)
    assert ("a password in an address" in find_secrets(path)) == (b"hunter2" in content)


def test_a_secret_in_a_name_is_found(tmp_path: Path) -> None:
    (tmp_path / f"{TOKEN}.txt").write_text("nothing")
    assert find_secrets(tmp_path / f"{TOKEN}.txt") == {"a Hugging Face token": ["its name"]}


@pytest.mark.parametrize(
    "content",
    [
        b"PAR1 and no more",
        compress_gzip(LINES)[:-12],
        zstandard.compress(LINES)[:5] + b"\xff" * 30,
        b"PK\x03\x04 no archive",
        *(compress(LINES)[:-cut] for compress in COMPRESSORS for cut in (1, 5, 20)),
        *(compress(LINES) + b"\0\1\2" + compress(LINES) for compress in COMPRESSORS),
    ],
)
def test_what_cannot_be_searched_is_not_published(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "songs").write_bytes(content)
    with pytest.raises(FolderRefusedError, match=r"songs: cannot be opened to search it for secrets \(.+\); write"):
        check_folder(tmp_path, repo_type="dataset", needs_card=False)


@pytest.mark.parametrize(
    ("library", "content"), [("pyarrow.parquet", b"PAR1"), ("zstandard", zstandard.compress(LINES))]
)
def test_what_searches_and_is_not_installed_is_named(
    tmp_path: Path, library: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "songs").write_bytes(content)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r'searching .+ needs (pyarrow|zstandard): pip install "apex-music\[data\]"'):
        find_secrets(tmp_path / "songs")


def test_ordinary_text_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("hf_hub_download, sk-learn, https://example.org/a:b@c, -----BEGIN CERTIFICATE-----")
    assert find_secrets(path) == {}


def test_pickles_are_known_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "innocent.json"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
        assert is_pickle(path)
    path.write_bytes(b"PK and no archive")
    assert not is_pickle(path)
    path.write_text("{}")
    assert not is_pickle(path)
    assert not is_pickle(tmp_path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (CARD.replace("license: apache-2.0\n", ""), "the front matter names no license"),
        (CARD.replace("apache-2.0", "other"), "`other`, which also needs license_name and license_link"),
        (CARD.replace("library_name: transformers\n", ""), "names no library_name"),
        (CARD.replace("apache-2.0", "[unclosed"), "the front matter cannot be read"),
        (CARD.replace("---\n\n", "model-index:\n- name: x\n---\n\n"), "the front matter cannot be read"),
        (CARD + "{{ facts.title }}", "unknown fact: '{{'"),
        (CARD + "[More Information Needed]", "unknown fact: '[More Information Needed]'"),
        (CARD + "see ![plot](evaluation/roc.png)", "links to evaluation/roc.png, which is not in the folder"),
        (CARD + '```python\npipeline("THIS_REPOSITORY")\n```\n', "unknown fact: 'THIS_REPOSITORY' in line 9"),
    ],
)
def test_every_problem_of_a_card_is_named(tmp_path: Path, card: str, message: str) -> None:
    assert message in " ".join(find_card_problems(card, tmp_path))


def test_code_and_addresses_are_no_gaps(tmp_path: Path) -> None:
    card = CARD + "```python\nx = {'a': {}}; y = None\n```\n[paper](https://arxiv.org) [above](#a-model) banana\n"
    assert find_card_problems(card, tmp_path) == []
    assert find_gaps("fine\n```\n\n```\nTODO") == [(5, "TODO")]


def test_a_licence_that_the_hub_does_not_know_is_refused_with_those_that_it_does(tmp_path: Path) -> None:
    card = "---\nlicense: {}\n---\n\n# Songs\n"
    (problem,) = find_card_problems(card.format("nope-1.0"), tmp_path, repo_type="dataset")
    assert problem.startswith(
        "the license 'nope-1.0' is not one that the Hub knows; choose one of afl-3.0, agpl-3.0, "
    )
    assert find_card_problems(card.format("cc-by-4.0"), tmp_path, repo_type="dataset") == []
