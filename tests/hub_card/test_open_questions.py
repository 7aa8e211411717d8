"""From a run to the Hub: what publishing makes itself, what it asks for, and how it goes on with the answers."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hub_card.model_facts import build_model_facts
from hub_card.open_questions import ask_open_questions, drop_open_questions, is_open
from hub_card.publish import build_parser, main, publish
from hub_card.result_files import OPEN_QUESTION, MissingFactError
from hub_card.upload_checks import FolderRefusedError
from modeling_apex import ApexModel
from modeling_apex.corpus.embedding_manifest import build_identity
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.train import train

from loopback_hub import LoopbackHub
from result_schemas import check_result
from song_folders import write_embeddings

REPO = "tester/first"
ANSWERS = {
    "summary": "Heads for songs that a test made.",
    "aesthetic_labels": "synthetic",
    "no_arena_because": "No battles were at hand.",
}


@pytest.fixture
def best(tiny_model: ApexModel, tmp_path: Path) -> Path:
    """The model of a run, as `apex-music train` leaves it."""
    tiny_model.config.provenance = {"name": "apex-tiny"}
    identity = build_identity(tiny_model, dtype="float32", resampler="sinc")
    # Twenty songs a platform, so that no interval is undefined.
    embeddings = write_embeddings(tmp_path / "embeddings", {"train": 40, "validation": 40, "test": 40}, identity)
    arguments = build_arguments("improved", num_epochs=2, learning_rate=0.01, report_to="none")
    return train(embeddings, tmp_path / "runs" / "first", arguments, model=tiny_model).best


@pytest.fixture
def run(best: Path, api: HfApi) -> Callable[..., str | None]:
    def publish_model(*words: str, say: Callable[[str], None] = print) -> str | None:
        given = ["--model", str(best), "--repo", REPO, *words]
        return publish(build_parser().parse_args(given), api=api, say=say)

    return publish_model


def answer(path: Path, **answers: Any) -> None:
    content = json.loads(path.read_text())
    songs = {"name": "a test's songs", "role": "songs", "license": None}
    content |= {name: value for name, value in {**ANSWERS, **answers}.items() if name in content}
    content["components"] = [songs if is_open(entry) else entry for entry in content["components"]]
    path.write_text(json.dumps(content))


def test_from_a_run_to_the_hub(run: Callable, best: Path, hub: LoopbackHub) -> None:
    lines: list[str] = []
    with pytest.raises(MissingFactError, match=r"facts\.json: only you know .* this file asks for it: ") as asked:
        run(say=lines.append)
    assert f"no {best / 'results.json'}: evaluating on {best.parents[2] / 'embeddings'}" in lines
    results = json.loads((best / "results.json").read_text())
    check_result(results)
    assert set(results["splits"]) == {"validation", "test"}
    facts = json.loads((best / "facts.json").read_text())
    assert set(facts) == {*ANSWERS, "components"}
    for words in ("the model's summary", "who gave the aesthetic labels", "which songs the model", "on battles"):
        assert words in str(asked.value)
    assert all(OPEN_QUESTION in json.dumps(value) for value in facts.values())
    assert hub.repositories == {}

    answer(best / "facts.json")
    assert run()
    files = hub.get_files(REPO)
    card = files["README.md"].decode()
    assert ANSWERS["summary"] in card
    assert ANSWERS["no_arena_because"] in card
    assert "a test's songs" in card
    assert "Trunk and heads were trained by `apex-music train` on 40 songs; 40 others chose the best" in card
    assert "# first\n" in card
    published = json.loads(files["results.json"])
    assert published == {**results, "model": REPO}
    assert not any(str(best.parents[2]).encode() in content for content in files.values())
    assert "facts.json" not in files


def test_what_is_answered_and_begun_is_kept(run: Callable, best: Path) -> None:
    with pytest.raises(MissingFactError):
        run()
    path = best / "facts.json"
    facts = json.loads(path.read_text())
    facts["summary"] = ANSWERS["summary"]
    facts["components"][0]["name"] = "my songs"
    path.write_text(json.dumps(facts))
    with pytest.raises(MissingFactError) as asked:
        run("--no-arena-because", "none at hand")
    assert "summary" not in str(asked.value)
    assert "battles" not in str(asked.value), "said on the command line"
    facts = json.loads(path.read_text())
    assert set(facts) == {"summary", "aesthetic_labels", "components"}
    assert facts["summary"] == ANSWERS["summary"]
    assert [entry["name"] for entry in facts["components"]] == ["my songs"]
    assert is_open(facts["components"][0]["license"])
    with pytest.raises(MissingFactError, match="nothing says who gave the aesthetic labels"):
        build_model_facts(best, no_arena_because="none at hand")  # a card is not built from questions


def test_a_component_of_unknown_licence_is_asked_for(tmp_path: Path) -> None:
    def build(facts: Mapping[str, Any]) -> None:
        for name in ("x/one", "x/two"):
            if not any(entry["name"] == name for entry in facts.get("components", ())):
                entry = {"name": name, "role": "encoder", "license": f"{OPEN_QUESTION}?"}
                raise MissingFactError(f"no licence of {name}; write it", {"components": [entry]})

    path = tmp_path / "facts.json"
    for _ in range(2):
        with pytest.raises(MissingFactError, match=r"no licence of x/one; no licence of x/two\. Write your answers"):
            ask_open_questions(path, build)
        assert [entry["name"] for entry in json.loads(path.read_text())["components"]] == ["x/one", "x/two"]
    path.write_text(path.read_text().replace(f"{OPEN_QUESTION}?", "mit"))
    ask_open_questions(path, build)


def test_what_no_person_can_answer_is_not_asked(tmp_path: Path) -> None:
    def build(facts: Mapping[str, Any]) -> None:
        raise MissingFactError("results.json: no `splits`; make one")

    with pytest.raises(MissingFactError, match="no `splits`; make one"):
        ask_open_questions(tmp_path / "facts.json", build)
    assert not list(tmp_path.iterdir())

    def never_content(facts: Mapping[str, Any]) -> None:
        raise MissingFactError("nothing says it", {"summary": f"{OPEN_QUESTION}what?"})

    with pytest.raises(MissingFactError, match="nothing says it"):
        ask_open_questions(tmp_path / "facts.json", never_content)


def test_open_questions_count_as_nothing_said() -> None:
    content = {
        "title": "mine",
        "summary": f"{OPEN_QUESTION}what?",
        "components": [{"name": "a"}, {"name": f"{OPEN_QUESTION}who?"}],
        "energy": {"hours": f"{OPEN_QUESTION}how many?"},
        "contact": "",
    }
    assert drop_open_questions(content) == {"title": "mine", "components": [{"name": "a"}], "contact": ""}
    assert drop_open_questions({"components": [{"name": OPEN_QUESTION}]}) == {}
    assert drop_open_questions({"components": []}) == {"components": []}, "refused by name, as before"


def test_results_of_another_model_are_refused(run: Callable, best: Path, hub: LoopbackHub) -> None:
    with pytest.raises(MissingFactError):
        run()
    answer(best / "facts.json")
    config = json.loads((best / "config.json").read_text())
    config["reference"] = {}
    (best / "config.json").write_text(json.dumps(config))
    with pytest.raises(FolderRefusedError, match=r"results\.json: not published, because these are results of ano"):
        run()
    assert hub.repositories == {}
    (best / "results.json").unlink()
    assert run()


def test_nothing_says_what_to_evaluate_on(run: Callable, best: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    embeddings = best.parents[2] / "embeddings"
    elsewhere = shutil.move(embeddings, tmp_path / "elsewhere")
    message = r"best/results\.json: no such result file; make one with `apex-music evaluate EMBEDDINGS --model .*best"
    with pytest.raises(FileNotFoundError, match=message):
        run()
    with pytest.raises(FileNotFoundError, match=r"other\.json: no such result file; .* and leave out --results"):
        run("--results", str(tmp_path / "other.json"), "--embeddings", str(elsewhere))
    with pytest.raises(FileNotFoundError, match=r"mine\.json: no such file of facts; without --facts one is made"):
        run("--facts", str(tmp_path / "mine.json"), "--embeddings", str(elsewhere))
    assert not (best / "facts.json").exists()
    assert (best / "results.json").is_file()
    (best / "facts.json").write_text('{"sumary": "mine"}')
    with pytest.raises(ValueError, match=r"best/facts\.json: no card uses the field 'sumary'; expected some of title"):
        run()


def test_the_answers_outlive_an_extension(best: Path, tiny_model: ApexModel) -> None:
    (best / "facts.json").write_text('{"summary": "mine"}')
    (best / "results.json").write_text("{}")
    arguments = build_arguments("improved", num_epochs=3, learning_rate=0.01, report_to="none")
    train(best.parents[2] / "embeddings", best.parent, arguments, model=tiny_model, resume=True)
    assert (best / "facts.json").read_text() == '{"summary": "mine"}'
    assert not (best / "results.json").exists(), "those were of the weights before"


def test_one_sentence_and_the_status_of_a_mistake(best: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--model", str(best), "--repo", REPO, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "then run the same command again" in said.err
    assert "Traceback" not in said.err
