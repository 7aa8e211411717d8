"""A trained model has a name of its own, wherever one is shown: it is never called what it was made from."""

import json
from collections.abc import Callable
from pathlib import Path

from modeling_apex import ApexModel
from modeling_apex.checkpoints.export import build_short_card
from modeling_apex.checkpoints.verification import verify_model
from modeling_apex.loading import load_scorer
from modeling_apex.training.train import train
from modeling_apex.training.trained_model import describe_trained_model

TINY = {"name": "apex-tiny", "notice": "demonstration model", "training": {"command": "python -m ..."}}


def test_a_model_that_starts_from_apex_tiny(
    tiny_model: ApexModel, embeddings: Path, tmp_path: Path, quick: Callable
) -> None:
    tiny_model.config.provenance = dict(TINY)
    best = train(embeddings, tmp_path / "pop-heads", quick(num_epochs=1), model=tiny_model).best
    provenance = json.loads((best / "config.json").read_text())["provenance"]
    assert provenance["name"] == "pop-heads"
    assert provenance["encoder"] == provenance["base"] == {"source": "apex-tiny"}
    assert "notice" not in provenance
    assert set(provenance) == {"name", "base", "encoder", "training"}
    assert provenance["training"]["arguments"]["num_epochs"] == 1
    assert load_scorer(best).model.config.provenance == provenance
    config = ApexModel.from_pretrained(best).config
    assert build_short_card(config).count("# pop-heads\n") == 1
    assert "demonstration model" not in build_short_card(config)
    assert "apex-tiny" not in verify_model(best).identity


def test_what_is_left_of_the_base(tiny_model: ApexModel, quick: Callable) -> None:
    mert, heads = {"source": "m-a-p/MERT-v1-95M", "sha256": {}}, {"source": "amaai-lab/apex"}
    config = tiny_model.config
    config.provenance = {"encoder": mert, "heads": heads, "seed": 42, "val_loss": 398.8}
    described = describe_trained_model(config, "run", quick(), {})
    assert described["encoder"] == mert
    assert set(described) == {"name", "encoder", "training"}
    described = describe_trained_model(config, "run", quick(train_encoder=True, initial_heads="model"), {})
    assert described["encoder"] == {**mert, "is_trained": True}
    assert described["heads"] == {**heads, "is_trained": True}
    assert describe_trained_model(config, "apex-tiny", quick(), {})["name"] == "apex-tiny-trained"
    assert describe_trained_model(config, "\x1b\n", quick(), {})["name"] == "trained"


def test_runs_of_earlier_releases_lose_the_name_that_is_not_theirs(tiny_folder: Path) -> None:
    path = tiny_folder / "config.json"
    old = {**TINY, "training": {"arguments": {"num_epochs": 1}, "data": {}}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "provenance": old}))
    for config in (load_scorer(tiny_folder).model.config, ApexModel.from_pretrained(tiny_folder).config):
        assert config.provenance == {"training": old["training"], "encoder": {"source": "apex-tiny"}}
