"""`apex-music verify`: what is sound passes, and each kind of damage is found and named."""

import json
import os
import re
import shutil
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
    assert "It matches no checkpoint that was compared." in result.identity
    assert "Not compared, because they are not on this machine: " in result.identity
    assert "amaai-lab/apex, m-a-p/MERT-v1-95M" in result.identity


def test_code_beside_the_weights_is_compared_and_not_run(tiny_model: ApexModel, tmp_path: Path) -> None:
    folder = export_model(tiny_model, tmp_path / "exported")
    assert get_status(verify_model(folder))["code"] == "ok"
    (folder / "modeling_apex.py").write_text("raise SystemExit\n")
    (folder / "report_apex.py").write_text("")
    result = verify_model(folder)
    assert get_status(result)["code"] == "failed"
    assert find_detail(result, "code").endswith("before you trust it: modeling_apex.py, report_apex.py")
    (folder / "config.json").write_text("{}")
    assert "audio_apex.py" in find_detail(verify_model(folder), "code")


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
        ("no card", "licence", "no README.md, so no licence is stated"),
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
    assert result.identity == "It does not load, so it was not compared."


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
    assert result.identity == (f"Its encoder is that of {mert}; its heads match no checkpoint that was compared.")


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
        ("no such", "no such: no such folder. Pass the folder of a model"),
        ("me/x", "not available"),
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


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


class TestForgeries:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"layer_indices": [0, 0, 0, 0]}, r"`layer_indices` is \[0, 0, 0, 0\], published is \[2, 5, 8, -1\]"),
            ({"segment_seconds": 0.5}, "`segment_seconds` is 0.5, published is 1.0"),
            ({"prediction_level": "segment"}, "`prediction_level` is 'segment', published is 'song'"),
            ({"popularity_exponent": 9.0}, "`popularity_exponent` is 9.0, published is "),
            ({"heads": "narrow"}, r"`heads` is \[.*'clarity'.*, published is \[.*'clarity'"),
            ({"percentile_tables": {"clarity": [1.0] * 101}}, r"`percentile_tables` is \['clarity'\], published is"),
            ({"sampling_rate": 16_000}, "`sampling_rate` is 16000, published is 24000"),
        ],
    )
    def test_equal_weights_under_another_config(
        self, published: tuple[Path, Path, Path], fields: dict, message: str
    ) -> None:
        mert, apex, converted = published
        if "heads" in fields:
            heads = json.loads((converted / "config.json").read_text())["heads"]
            fields = {"heads": [{**head, "minimum": 4.5} if head["name"] == "clarity" else head for head in heads]}
        change_config(converted, **fields)
        (converted / "preprocessor_config.json").unlink()
        result = verify_model(finish(converted, "cc-by-nc-4.0"), against=[str(mert), str(apex)])
        assert not result.is_ok
        assert re.search(message, find_detail(result, "config")), find_detail(result, "config")
        assert result.identity.endswith("under another config, so its scores differ.")

    def test_an_encoder_that_computes_something_else(self, published: tuple[Path, Path, Path]) -> None:
        mert, _, converted = published
        encoder = json.loads((converted / "config.json").read_text())["encoder_config"]
        change_config(converted, encoder_config={**encoder, "hidden_act": "relu", "num_attention_heads": 2})
        result = verify_model(finish(converted, "cc-by-nc-4.0"), against=[str(mert)])
        assert "`encoder_config.hidden_act` is 'relu', published is 'gelu'" in find_detail(result, f"equals {mert}")
        assert get_status(result)[f"equals {mert}"] == "failed"

    def test_apex_tiny_with_other_ranges(self, tmp_path: Path) -> None:
        folder = shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
        assert verify_model(folder).identity.startswith("It is apex-tiny (in this package): every number is equal.")
        heads = json.loads((folder / "config.json").read_text())["heads"]
        change_config(folder, heads=[{**head, "minimum": 0.9 * head["maximum"]} for head in heads])
        result = verify_model(folder)
        assert not result.is_ok
        assert result.identity == (
            "It has the weights of apex-tiny (in this package) under another config, so its scores differ."
        )

    def test_a_name_that_the_weights_do_not_bear_out(self, tmp_path: Path) -> None:
        folder = shutil.copytree(EMBEDDED_MODEL, tmp_path / "model")
        change_weights(folder, lambda tensors: tensors["aggregator.bias"].add_(1e-3))
        result = verify_model(folder)
        assert "the heads is that of apex-tiny (in this package), but it is not" in find_detail(result, "provenance")
        assert "It is apex-tiny" not in result.identity

    def test_a_source_that_the_weights_do_not_bear_out(self, published: tuple[Path, Path, Path]) -> None:
        mert, _, converted = published
        source = {"source": str(mert)}
        change_config(converted, provenance={"encoder": source})
        change_weights(converted, lambda tensors: tensors["encoder.encoder.layer_norm.bias"].add_(1e-3))
        result = verify_model(finish(converted, "cc-by-nc-4.0"), against=[str(mert)])
        assert get_status(result)["provenance"] == "failed"
        change_config(converted, provenance={"encoder": {**source, "is_trained": True}})
        result = verify_model(finish(converted, "cc-by-nc-4.0"), against=[str(mert)])
        assert "provenance" not in get_status(result)

    def test_another_preprocessor(self, release: Path) -> None:
        path = release / "preprocessor_config.json"
        for content in ({"sampling_rate": 48_000}, {"segment_seconds": 9.0}, {"minimum_num_samples": 1}):
            path.write_text(json.dumps(content))
            assert "but the config implies" in find_detail(verify_model(finish(release)), path.name)
        path.write_text("[")
        assert find_detail(verify_model(finish(release)), path.name) == "it is not JSON"

    def test_words_of_the_folder_forge_no_line(self, release: Path, capsys: pytest.CaptureFixture) -> None:
        code = "\\x1b[1A\\x1b[2Kweights  ok\\nprobe signal  ok"
        (release / "README.md").write_text(f'---\nlicense: "{code}"\n---\n')
        (release / "a\x1b[2J\nb.py").write_text("")
        assert main(["verify", "--model", str(release)]) == 1
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert "\\x1b[1A\\x1b[2Kweights  ok\\nprobe signal  ok" in printed
        assert "a\\x1b[2J\\nb.py" in printed

    @pytest.mark.parametrize("name", ["evil.py", "sub/evil.py", "setup.sh", "lib.so"])
    def test_foreign_code(self, release: Path, name: str) -> None:
        (release / name).parent.mkdir(exist_ok=True)
        (release / name).write_text("")
        result = verify_model(finish(release))
        assert get_status(result)["code"] == "failed"
        assert find_detail(result, "code").endswith(f"before you trust it: {name}")

    @pytest.mark.parametrize(
        ("file", "fields"),
        [
            ("config.json", {"auto_map": {"AutoModel": "someone/evil--modeling.Evil"}}),
            ("config.json", {"custom_pipelines": {"apex-popularity": {"impl": "evil.Evil"}}}),
            ("config.json", {"provenance": {"auto_map": {"AutoModel": "evil.Evil"}}}),
            ("preprocessor_config.json", {"auto_map": {"AutoFeatureExtractor": "evil.Evil"}}),
            ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "evil.Evil"}}),
        ],
    )
    def test_pointers_to_foreign_code(self, release: Path, file: str, fields: dict) -> None:
        path = release / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **fields}))
        result = verify_model(finish(release))
        assert get_status(result)["code"] == "failed"
        assert f"{file}: " in find_detail(result, "code")

    def test_code_that_is_not_all_there(self, release: Path) -> None:
        (release / "heads_apex.py").unlink()
        assert "heads_apex.py is missing" in find_detail(verify_model(finish(release)), "code")

    @pytest.mark.parametrize(
        "name",
        [
            *("pytorch_model.bin", "training_args.bin", "other.safetensors", "model.onnx", "sub/weights.PKL"),
            *("model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors"),
        ],
    )
    def test_weights_that_nothing_here_reads(self, release: Path, name: str) -> None:
        (release / name).parent.mkdir(exist_ok=True)
        (release / name).write_text("{}")
        result = verify_model(finish(release))
        assert get_status(result)["format"] == "failed"
        assert find_detail(result, "format").endswith(f"may take them for the model: {name}")

    def test_links_that_lead_out(self, release: Path, tmp_path: Path) -> None:
        (release / "model.safetensors").rename(tmp_path / "elsewhere")
        (release / "model.safetensors").symlink_to(tmp_path / "elsewhere")
        result = verify_model(finish(release))
        assert get_status(result)["files"] == "failed"
        assert "model.safetensors is a link to " in find_detail(result, "files")
        (release / "model.safetensors").unlink()
        (tmp_path / "elsewhere").rename(release / "model.safetensors")
        os.mkfifo(release / "queue")
        assert find_detail(verify_model(release), "files").endswith("queue is not a file")

    def test_a_snapshot_of_the_hub_is_made_of_links(self, release: Path, tmp_path: Path) -> None:
        snapshot = tmp_path / "repo" / "snapshots" / "0123"
        (tmp_path / "repo" / "blobs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted(release.iterdir())):
            path.rename(tmp_path / "repo" / "blobs" / str(number))
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        assert verify_model(snapshot).is_ok

    def test_a_card_without_end(self, release: Path) -> None:
        with open(release / "README.md", "ab") as file:
            file.truncate(10_000_001)
        assert "it is larger than 10,000,000 bytes" in find_detail(verify_model(release), "licence")
