"""Checkpoints from strangers: no pickle runs code, no pointer to code is followed, and heads are not mixed up."""

import ast
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from modeling_apex import ApexConfig, ApexFeatureExtractor, ApexModel, load_pipeline, load_preference_head
from modeling_apex.checkpoints.convert import convert_checkpoint
from modeling_apex.checkpoints.export import AUTO_MAPS, export_model
from modeling_apex.checkpoints.published import read_encoder, read_heads
from modeling_apex.checkpoints.verification import verify_model
from modeling_apex.cli import main

import published_layout as layout
from booby_traps import TRAPS, build_numpy_file, build_torch_file

REPOSITORY = Path(__file__).parents[2]
TASK = "apex-popularity"


@pytest.fixture
def marker(tmp_path: Path) -> Any:
    """The file that a trap makes when it goes off; it must not be there in the end."""
    path = tmp_path / "trap-went-off"
    yield path
    assert not path.exists()


def test_the_traps_work(tmp_path: Path) -> None:
    for name, build in TRAPS.items():
        marker = tmp_path / name
        (tmp_path / "trap").write_bytes(build(marker))
        if name == "pickle":
            pickle.loads(build(marker))  # noqa: S301 (our own trap)
        else:
            torch.load(tmp_path / "trap", weights_only=False)
        assert marker.exists()


class TestPickles:
    @pytest.mark.parametrize("trap", TRAPS)
    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
    def test_no_door_of_the_model_opens_one(self, tiny_folder: Path, marker: Path, trap: str, name: str) -> None:
        (tiny_folder / "model.safetensors").unlink()
        (tiny_folder / name).write_bytes(TRAPS[trap](marker))
        doors: list[Callable[[Path], Any]] = [
            ApexModel.from_pretrained,
            lambda folder: ApexModel.from_pretrained(folder, use_safetensors=False, weights_only=False),
            lambda folder: ApexModel.from_pretrained(folder, strict=False),
            AutoModel.from_pretrained,
            load_pipeline,
            lambda folder: transformers.pipeline(TASK, model=str(folder)),
            lambda folder: export_model(folder, folder / "out"),
        ]
        message = "Pickles .* are not loaded" if name.endswith(".bin") else "not a valid safetensors file"
        for door in doors:
            with pytest.raises((OSError, ValueError), match=message):
                door(tiny_folder)
        assert not verify_model(tiny_folder).is_ok

    def test_an_index_of_pickles(self, tiny_folder: Path, marker: Path) -> None:
        (tiny_folder / "model.safetensors").unlink()
        (tiny_folder / "part.bin").write_bytes(build_torch_file(marker))
        index = json.dumps({"metadata": {}, "weight_map": {"aggregator.bias": "part.bin"}})
        for name in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
            (tiny_folder / name).write_text(index)
            with pytest.raises((OSError, ValueError), match=r"Pickles .* are not loaded|expected the plain name"):
                ApexModel.from_pretrained(tiny_folder)

    @pytest.mark.parametrize("trap", TRAPS)
    @pytest.mark.parametrize("name", ["best_model.pt", "pytorch_model.bin", "models/best_model.pt"])
    def test_published_heads(self, tmp_path: Path, marker: Path, trap: str, name: str) -> None:
        path = tmp_path / "heads" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(TRAPS[trap](marker))
        layout.write_mert_folder(tmp_path / "mert")
        for source in (path, tmp_path / "heads"):
            for door in (read_heads, lambda heads: convert_checkpoint(tmp_path / "mert", heads)):
                with pytest.raises(ValueError, match=r"not readable as plain weights \(a pickle that holds"):
                    door(source)
        words = ["convert", "--encoder", str(tmp_path / "mert"), "--heads", str(path), "--output", str(tmp_path / "o")]
        assert main(words) == 2

    @pytest.mark.parametrize("trap", TRAPS)
    def test_the_published_layout(self, tmp_path: Path, marker: Path, trap: str) -> None:
        mert, apex = tmp_path / "mert", tmp_path / "apex"
        layout.write_mert_folder(mert)
        layout.write_apex_folder(apex, str(mert), layout.MERT_SMALL["hidden_size"])
        for folder in (apex, mert):
            weights = (folder / "pytorch_model.bin").read_bytes()
            (folder / "pytorch_model.bin").write_bytes(TRAPS[trap](marker))
            with pytest.raises(ValueError, match="not readable as plain weights"):
                ApexModel.from_pretrained(apex)
            if folder == apex:
                (folder / "pytorch_model.bin").write_bytes(weights)
        with pytest.raises(ValueError, match="not readable as plain weights"):
            read_encoder(mert)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "preference_head.json"])
    def test_what_should_be_json(self, tiny_folder: Path, marker: Path, name: str) -> None:
        ApexFeatureExtractor().save_pretrained(tiny_folder)
        (tiny_folder / name).write_bytes(TRAPS["pickle"](marker))
        doors = {
            "config.json": ApexConfig.from_pretrained,
            "preprocessor_config.json": ApexFeatureExtractor.from_pretrained,
            "preference_head.json": load_preference_head,
        }
        with pytest.raises((OSError, ValueError)):
            doors[name](tiny_folder)

    @pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "evil.pkl", "scheduler.npy"])
    def test_bystanders_are_not_opened(self, tiny_folder: Path, marker: Path, name: str) -> None:
        build = build_numpy_file if name.endswith("npy") else build_torch_file
        (tiny_folder / name).write_bytes(build(marker))
        assert load_pipeline(tiny_folder)
        assert export_model(tiny_folder, tiny_folder / "out")
        assert not (tiny_folder / "out" / name).exists()
        verify_model(tiny_folder)

    def test_code_opens_pickles_in_one_place(self) -> None:
        """No file of ours imports a library that opens pickles as code, or asks one of the others to."""
        for package in ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo"):
            for path in (REPOSITORY / package).rglob("*.py"):
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"allow_pickle=True|weights_only=False", text), path
                calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
                opening = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "marshal.loads"}
                opening |= {"shelve.open", "pd.read_pickle", "pandas.read_pickle", "eval", "exec"}
                assert not calls & opening, path
                assert "torch.load" not in calls or path.stem == "pickles", path


EVIL_CODE = """
import pathlib
from transformers import PreTrainedConfig

pathlib.Path({marker!r}).touch()


class Evil(PreTrainedConfig):
    model_type = "apex"
"""


class TestPointersToCode:
    @pytest.fixture
    def evil_folder(self, tiny_folder: Path, marker: Path) -> Path:
        """A checkpoint whose every file points to code that leaves a mark."""
        ApexFeatureExtractor().save_pretrained(tiny_folder)
        (tiny_folder / "evil.py").write_text(EVIL_CODE.format(marker=str(marker)))
        (tiny_folder / "modeling_apex.py").write_text(EVIL_CODE.format(marker=str(marker)))
        return tiny_folder

    @pytest.fixture(params=["evil.Evil", "someone/evil--modeling.Evil", "../../evil.Evil", "os.system"])
    def pointing_folder(self, evil_folder: Path, request: pytest.FixtureRequest) -> Path:
        names = ("AutoConfig", "AutoModel", "AutoFeatureExtractor", "AutoProcessor", "AutoTokenizer")
        fields = {
            "auto_map": dict.fromkeys(names, request.param),
            "custom_pipelines": {TASK: {"impl": request.param, "pt": ["AutoModel"], "type": "audio"}},
        }
        for name in ("config.json", "preprocessor_config.json"):
            path = evil_folder / name
            content = {**json.loads(path.read_text()), **fields}
            if "encoder_config" in content:
                content["encoder_config"] |= fields
            path.write_text(json.dumps(content))
        return evil_folder

    @pytest.mark.parametrize("trust", [None, False, True])
    def test_the_installed_code_serves_whatever_the_folder_says(
        self, pointing_folder: Path, trust: bool | None, song_file: Callable[..., Path]
    ) -> None:
        options = {} if trust is None else {"trust_remote_code": trust}
        assert type(AutoConfig.from_pretrained(pointing_folder, **options)) is ApexConfig
        assert type(AutoModel.from_pretrained(pointing_folder, **options)) is ApexModel
        assert type(AutoFeatureExtractor.from_pretrained(pointing_folder, **options)) is ApexFeatureExtractor
        assert type(ApexModel.from_pretrained(pointing_folder, **options)) is ApexModel
        assert "scores" in load_pipeline(pointing_folder)(str(song_file()))

    def test_pointers_are_not_carried_on(self, pointing_folder: Path, tmp_path: Path) -> None:
        ApexModel.from_pretrained(pointing_folder).save_pretrained(tmp_path / "saved")
        ApexFeatureExtractor.from_pretrained(pointing_folder).save_pretrained(tmp_path / "saved")
        load_pipeline(pointing_folder).save_pretrained(tmp_path / "pipeline")
        for path in [*(tmp_path / "saved").glob("*.json"), *(tmp_path / "pipeline").glob("*.json")]:
            text = path.read_text()
            assert "evil" not in text, path
            assert "os.system" not in text, path
        exported = export_model(pointing_folder, tmp_path / "exported")
        assert json.loads((exported / "config.json").read_text())["auto_map"] == AUTO_MAPS["apex"]
        assert not (exported / "evil.py").exists()
        ours = REPOSITORY / "modeling_apex" / "inference" / "modeling_apex.py"
        assert (exported / "modeling_apex.py").read_bytes() == ours.read_bytes()
        for path in exported.glob("*.json"):
            assert "evil" not in path.read_text()
            assert "os.system" not in path.read_text()

    def test_the_command_line(self, pointing_folder: Path, song_file: Callable[..., Path]) -> None:
        assert main(["score", str(song_file()), "--model", str(pointing_folder)]) == 0
        assert main(["verify", "--model", str(pointing_folder)]) in (0, 1)

    def test_code_of_the_published_encoder_is_not_run(self, tmp_path: Path, marker: Path) -> None:
        layout.write_mert_folder(tmp_path / "mert")
        layout.write_apex_folder(tmp_path / "apex", str(tmp_path / "mert"), layout.MERT_SMALL["hidden_size"])
        for name in ("modeling_MERT.py", "configuration_MERT.py"):
            (tmp_path / "mert" / name).write_text(EVIL_CODE.format(marker=str(marker)))
        assert ApexModel.from_pretrained(tmp_path / "apex", trust_remote_code=True)


class TestHeads:
    def change_config(self, folder: Path, change: Callable[[dict], None]) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    def test_scores_follow_names_not_places(self, tiny_folder: Path) -> None:
        values = torch.randn(1, 2, 2400, generator=torch.Generator().manual_seed(0))
        model = ApexModel.from_pretrained(tiny_folder).eval()
        scores = dict(zip(model.config.head_names, model(input_values=values).scores[0].tolist(), strict=True))
        self.change_config(tiny_folder, lambda config: config["heads"].reverse())
        turned = ApexModel.from_pretrained(tiny_folder).eval()
        assert turned.config.head_names == list(reversed(model.config.head_names))
        found = dict(zip(turned.config.head_names, turned(input_values=values).scores[0].tolist(), strict=True))
        assert found == pytest.approx(scores)

    def test_a_head_under_another_name(self, tiny_folder: Path) -> None:
        self.change_config(tiny_folder, lambda config: config["heads"][2].update(name="groove"))
        with pytest.raises(RuntimeError, match=r"missing_keys.*branch_groove.*unexpected_keys.*branch_coherence"):
            ApexModel.from_pretrained(tiny_folder)

    def test_a_head_twice(self, tiny_folder: Path) -> None:
        self.change_config(tiny_folder, lambda config: config["heads"].append(config["heads"][0]))
        with pytest.raises(ValueError, match="`heads` names a score twice"):
            ApexModel.from_pretrained(tiny_folder)

    def test_heads_of_another_encoder(self, tiny_folder: Path) -> None:
        tensors = load_file(tiny_folder / "model.safetensors")
        tensors["shared.0.block.0.weight"] = torch.zeros(12, 24)
        save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(RuntimeError, match=r"mismatched_keys.*shared\.0\.block\.0\.weight"):
            ApexModel.from_pretrained(tiny_folder)

    def test_heads_of_another_width(self, tiny_folder: Path) -> None:
        self.change_config(tiny_folder, lambda config: config.update(branch_dims=[6, 5]))
        with pytest.raises(RuntimeError, match=r"mismatched_keys.*branch_clarity"):
            ApexModel.from_pretrained(tiny_folder)

    @pytest.mark.parametrize("name", ["a.b", "weight ", "../x", "a-b", "", "1st"])
    def test_names_that_are_no_names(self, tiny_folder: Path, name: str) -> None:
        self.change_config(tiny_folder, lambda config: config["heads"][0].update(name=name))
        with pytest.raises(ValueError, match="`name` must be a plain identifier"):
            ApexModel.from_pretrained(tiny_folder)

    def test_weights_that_are_not_finite_are_an_error_when_scoring(
        self, tiny_folder: Path, song_file: Callable[..., Path]
    ) -> None:
        tensors = load_file(tiny_folder / "model.safetensors")
        tensors["branch_clarity.branch.2.weight"].fill_(float("nan"))
        save_file(tensors, tiny_folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(FloatingPointError, match="a head yields NaN or infinity; the checkpoint's heads are"):
            load_pipeline(tiny_folder)(str(song_file()))
