"""Pickles of weights: what they claim is held against what their file has, before memory is taken."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_apex.checkpoints.pickles import MAX_DEPTH, load_pickle
from modeling_apex.checkpoints.published import read_heads

import published_layout as layout


def rewrite(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive of `torch.save` again, each member's bytes changed by `change(name, bytes)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))
    return path


def test_plain_weights_come_out_as_they_are(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.nn.Parameter(torch.ones(2)), "n": torch.tensor(3)}
    content = {"model_state": weights, "optimizer_state": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": [{}]}}
    torch.save({**content, "epoch": 3, "mode": "song"}, tmp_path / "x.pt")
    loaded = load_pickle(tmp_path / "x.pt")
    assert loaded["epoch"] == 3
    assert all(torch.equal(loaded["model_state"][name], value) for name, value in weights.items())
    (tmp_path / "x.pt").write_bytes(bytes(10_000))  # in place: what was read stays what it was
    assert torch.equal(loaded["model_state"]["a"], weights["a"])


def test_an_expanded_tensor(tmp_path: Path) -> None:
    torch.save({"shared.0.block.0.weight": torch.zeros(1).expand(3_000_000_000)}, tmp_path / "best_model.pt")
    assert (tmp_path / "best_model.pt").stat().st_size < 10_000
    for door in (load_pickle, read_heads):
        with pytest.raises(ValueError, match=r"claims the shape \(3000000000,\), more than the file holds"):
            door(tmp_path / "best_model.pt")


def test_one_storage_that_many_tensors_share(tmp_path: Path) -> None:
    large = torch.zeros(100_000)
    torch.save({f"copy {index}": large for index in range(50)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"'copy \d+' claims the shape \(100000,\), more than the file holds"):
        load_pickle(tmp_path / "x.pt")


def test_a_deflated_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "x.pt")
    rewrite(tmp_path / "x.pt", lambda name, content: content, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.pt").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"is compressed, which torch\.save never does"):
        load_pickle(tmp_path / "x.pt")


def test_a_storage_that_claims_more_than_its_record(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pt")
    for claimed in (10**6, 10**9):
        numbers = claimed.to_bytes(4, "little")
        rewrite(
            tmp_path / "x.pt",
            lambda name, content: content.replace(b"M\xe8\x03", b"J" + numbers) if "data.pkl" in name else content,  # noqa: B023
        )
        with pytest.raises(ValueError, match="not readable as plain weights"):
            load_pickle(tmp_path / "x.pt")
        torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pt")


class Calls:
    """Pickled as a call of what torch's unpickler allows, with any argument."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "call",
    [Calls(bytearray, 10**10), Calls(torch.Tensor, 10**5, 10**5), Calls(complex, 1, 2), Calls(set, [1])],
    ids=["bytearray", "Tensor", "complex", "set"],
)
def test_calls_that_allocate_what_they_are_told(tmp_path: Path, call: Calls) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    content = pickle.dumps({"a": call}, protocol=2)
    rewrite(tmp_path / "x.pt", lambda name, old: content if name.endswith("data.pkl") else old)
    with pytest.raises(ValueError, match=r"it calls '.*', which plain weights do not need"):
        load_pickle(tmp_path / "x.pt")


def test_a_pickle_within_a_pickle_without_end(tmp_path: Path) -> None:
    nested: Any = torch.zeros(1)
    for _ in range(MAX_DEPTH + 1):
        nested = [nested]
    torch.save({"a": nested}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="nested deeper than 16 levels"):
        load_pickle(tmp_path / "x.pt")


def test_a_list_that_holds_another_many_times(tmp_path: Path) -> None:
    nested: Any = [1] * 10
    for _ in range(8):
        nested = [nested] * 10
    torch.save({"a": nested}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="or has more than 1,000,000 entries"):
        load_pickle(tmp_path / "x.pt")


def test_tensors_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, device="meta")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="which plain weights do not need"):
        load_pickle(tmp_path / "x.pt")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(ValueError, match=r"expected one data\.pkl of at most"):
        load_pickle(tmp_path / "x.pt")
    torch.save([torch.zeros(2)], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="expected a dict of weights, got list"):
        load_pickle(tmp_path / "x.pt")


def test_the_format_before_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"expected an archive of torch\.save \(torch 1\.6 or later\)"):
        load_pickle(tmp_path / "x.pt")


def test_a_member_that_claims_more_than_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    start = content.rindex(b"PK\x01\x02")  # the last entry of the central directory; its sizes are 20 bytes on
    (tmp_path / "x.pt").write_bytes(content[: start + 20] + b"\xff\xff\xff\x7f" * 2 + content[start + 28 :])
    with pytest.raises(ValueError, match="its members claim more bytes than the file has"):
        load_pickle(tmp_path / "x.pt")


def test_published_layouts_still_load(tmp_path: Path) -> None:
    written = layout.write_best_model(tmp_path / "best_model.pt", 32)
    read = read_heads(tmp_path / "best_model.pt").state_dict
    assert all(torch.equal(read[name], value) for name, value in written.items())
