"""`apex-music verify`: what is sound passes, and each kind of damage is found and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_apex import ApexModel
from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion
from modeling_apex.checkpoints.export import export_model
from modeling_apex.checkpoints.hub_files import save_checksums
from modeling_apex.checkpoints.verification import Verification, build_probe, verify_model
from modeling_apex.cli import main
from modeling_apex.registration import EMBEDDED_MODEL

import published_layout as layout

CARD = "---\nlicense: {license}\n---\n\n# A model\n"


@pytest.fixture
def release(tiny_model: ApexModel, tmp_path: Path) -> Path:
    """A model as it is published: exported, with a card and checksums."""
    folder = export_model(tiny_model, tmp_path / "release")
    return finish(folder)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path, Path]:
    """MERT and APEX in their published layouts, and their conversion."""
    layout.write_mert_folder(tmp_path / "mert")
    layout.write_apex_folder(tmp_path / "apex", str(tmp_path / "mert"), 32, segment_sec=1)
    converted = save_conversion(convert_checkpoint(tmp_path / "mert", tmp_path / "apex"), tmp_path / "converted")
    return tmp_path / "mert", tmp_path / "apex", finish(converted, license="cc-by-nc-4.0")


def finish(folder: Path, license: str = "apache-2.0") -> Path:
    (folder / "README.md").write_text(CARD.format(license=license))
    save_checksums(folder)
    return folder


def get_status(result: Verification) -> dict[str, str]:
    return {check.name: check.status for check in result.checks}


def find_detail(result: Verification, name: str) -> str:
    return next(check.detail for check in result.checks if check.name == name)


def test_a_sound_model_passes(release: Path) -> None:
    result = verify_model(release)
    assert result.is_ok, result.format()
    assert set(get_status(result).values()) == {"ok"}
    assert list(get_status(result)) == ["SHA256SUMS", "format", "code", "licence", "weights", "probe signal"]
    assert "finite and within range: score_streams" in result.format()
    assert "It equals no checkpoint that was compared." in result.identity
    assert "Not compared, because they are not on this machine: " in result.identity
    assert "amaai-lab/apex, m-a-p/MERT-v1-95M" in result.identity


def test_code_beside_the_weights_is_compared_and_not_run(tiny_model: ApexModel, tmp_path: Path) -> None:
    folder = export_model(tiny_model, tmp_path / "exported")
    assert get_status(verify_model(folder))["code"] == "ok"
    (folder / "modeling_apex.py").write_text("raise SystemExit\n")
    (folder / "report_apex.py").write_text("")
    result = verify_model(folder)
    assert get_status(result)["code"] == "not checked"
    assert find_detail(result, "code").endswith("before you trust it: modeling_apex.py, report_apex.py")
    (folder / "config.json").write_text("{}")
    assert "the config cannot be read" in find_detail(verify_model(folder), "code")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def damage(folder: Path, kind: str) -> None:
    if kind == "one bit":
        change_weights(folder, lambda tensors: tensors["aggregator.bias"].add_(1e-6))
        return
    if kind == "missing weight":
        change_weights(folder, lambda tensors: tensors.pop("aggregator.bias"))
    elif kind == "extra weight":
        change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    elif kind == "nan":
        change_weights(folder, lambda tensors: tensors["aggregator.bias"].fill_(float("nan")))
    elif kind == "no card":
        (folder / "README.md").unlink()
    elif kind == "no license":
        (folder / "README.md").write_text("# A model\n")
    elif kind == "unreadable card":
        (folder / "README.md").write_text("---\nlicense: [\n---\n")
    save_checksums(folder)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("one bit", "SHA256SUMS", "model.safetensors has SHA-256"),
        ("missing weight", "weights", "missing_keys"),
        ("extra weight", "weights", "unexpected_keys"),
        ("nan", "weights", "NaN or infinite: aggregator.bias"),
        ("no card", "licence", "no README.md, so nothing says who may use the model"),
        ("no license", "licence", "README.md names no license"),
        ("unreadable card", "licence", "the front matter of README.md cannot be read"),
    ],
)
def test_damage_is_found_and_named(release: Path, kind: str, name: str, message: str) -> None:
    damage(release, kind)
    result = verify_model(release)
    assert not result.is_ok
    assert get_status(result)[name] == "failed"
    assert message in find_detail(result, name)


def test_nan_weights_fail_the_probe_too(release: Path) -> None:
    damage(release, "nan")
    result = verify_model(release)
    assert get_status(result)["probe signal"] == "failed"


def test_a_model_that_does_not_load_is_compared_with_nothing(release: Path) -> None:
    (release / "config.json").write_text('{"model_type": "apex", "segment_seconds": -1}')
    result = verify_model(release)
    assert get_status(result)["weights"] == "failed"
    assert get_status(result)["licence"] == "not checked"
    assert result.identity == "It does not load, so it was compared with nothing."


def test_folder_without_checksums_is_not_called_checked(release: Path) -> None:
    (release / "SHA256SUMS").unlink()
    result = verify_model(release)
    assert result.is_ok
    assert get_status(result)["SHA256SUMS"] == "not checked"
    (release / "SHA256SUMS").write_text("nonsense\n")
    assert get_status(verify_model(release))["SHA256SUMS"] == "failed"


def test_a_free_licence_over_bound_weights_is_refused(release: Path) -> None:
    config = json.loads((release / "config.json").read_text())
    config["provenance"] = {"encoder": {"source": "m-a-p/MERT-v1-95M"}}
    (release / "config.json").write_text(json.dumps(config))
    result = verify_model(finish(release))
    assert find_detail(result, "licence") == (
        "the card says apache-2.0, but the encoder is m-a-p/MERT-v1-95M under cc-by-nc-4.0"
    )
    assert verify_model(finish(release, license="cc-by-nc-4.0")).is_ok


def test_a_conversion_equals_what_it_came_from(published: tuple[Path, Path, Path]) -> None:
    mert, apex, converted = published
    result = verify_model(converted, against=[str(mert), str(apex)])
    assert result.is_ok, result.format()
    assert find_detail(result, f"equals {mert}") == "encoder: every number equal"
    assert find_detail(result, f"equals {apex}") == "heads: every number equal"
    assert result.identity == (
        f"It is a published model: its heads are those of {apex}, its encoder is {mert}; every number is equal."
    )


def test_the_published_layout_itself_is_verified(published: tuple[Path, Path, Path]) -> None:
    _, apex, converted = published
    (apex / "README.md").write_text(CARD.format(license="cc-by-nc-4.0"))
    result = verify_model(apex, against=[str(converted)])
    assert result.is_ok, result.format()
    assert "pytorch_model.bin: a pickle, opened so that nothing in it can run" in result.format()
    assert result.identity == f"It is {converted}: every number is equal."


def test_one_changed_number_is_another_model(published: tuple[Path, Path, Path]) -> None:
    mert, apex, converted = published
    change_weights(converted, lambda tensors: tensors["aggregator.bias"].add_(1e-6))
    save_checksums(converted)
    result = verify_model(converted, against=[str(mert), str(apex)])
    assert not result.is_ok
    assert find_detail(result, f"equals {apex}") == "heads: 1 tensors differ"
    assert result.identity == (
        f"Its encoder is that of {mert}; its heads are those of no checkpoint that was compared."
    )


def test_a_reference_that_cannot_be_read_fails(release: Path) -> None:
    result = verify_model(release, against=["nobody/nowhere"])
    assert get_status(result)["equals nobody/nowhere"] == "failed"


def test_the_embedded_model_is_known_by_name(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_apex.checkpoints.verification.EMBEDDED_MODEL", release)
    assert verify_model(release).identity.startswith("It is apex-tiny (in this package): every number is equal.")
    assert EMBEDDED_MODEL.name == "apex-tiny"


def test_probe_is_always_the_same_song() -> None:
    probe = build_probe(24_000, 0.5)
    assert probe.shape == (12_000,)
    assert probe.dtype == np.float32
    assert 0.1 < np.abs(probe).max() < 1.0
    np.testing.assert_array_equal(probe, build_probe(24_000, 0.5))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{empty}", "so it is not a model"),
        ("no such", "not a Hub id of the form"),
        ("me/x", "not to be had"),
    ],
)
def test_models_that_are_not_there_are_named(
    tmp_path: Path, model: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["verify", "--model", model.format(empty=tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_exit_status_tells_whether_a_check_failed(release: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", "--model", str(release)]) == 0
    damage(release, "no license")
    assert main(["verify", "--model", str(release)]) == 1
    assert "licence       failed       README.md names no license" in capsys.readouterr().out
