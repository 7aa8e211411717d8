"""Model cards: every number from a file, every gap an error, every code block run, metadata that the Hub reads."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import HfApi, ModelCard
from markdown_it import MarkdownIt
from patience import PATIENCE

from hub_card.build_card import main
from hub_card.card_checks import find_card_problems
from hub_card.model_card import build_environment, render_model_card
from hub_card.model_facts import build_model_facts, count_parameters, find_arena
from hub_card.publish import build_parser, publish
from hub_card.result_files import MissingFactError
from modeling_apex import ApexModel
from modeling_apex.cli import main as run_command
from modeling_apex.registration import EMBEDDED_MODEL

from loopback_hub import LoopbackHub
from result_layouts import make_estimate, make_split_results

REPOSITORY = Path(__file__).parents[2]
REPO = "tester/apex"
REASON = "no battles were at hand."
PUBLISHED_FACTS = {
    "title": "APEX, converted",
    "summary": "The published heads behind MERT, in one file.",
    "training_summary": "Trained by the authors of the paper.",
    "aesthetic_labels": "pseudo-labels",
    "components": [
        {"name": "amaai-lab/apex", "role": "heads", "license": "cc-by-nc-4.0", "is_in_weights": True},
        {"name": "ASLP-lab/SongEval", "role": "labels", "license": "cc-by-nc-sa-4.0"},
        {"name": "sleeping-ai/suno-307K", "role": "songs", "license": "cc-by-nc-nd-4.0"},
        {"name": "sleeping-ai/Udio-126K", "role": "songs", "license": None},
    ],
    "energy": {"hardware": "one GPU", "hours": 3.5, "kwh": 1.25},
    "contact": "the issues of this repository",
}
Render = Callable[..., str]


@pytest.fixture
def render(tiny_release: Path) -> Render:
    def render_release(**options: object) -> str:
        given = {"no_arena_because": REASON, "repo_id": REPO, **options}
        return render_model_card(build_model_facts(tiny_release, **given))

    return render_release


@pytest.fixture
def converted_release(tiny_release: Path) -> Path:
    """A model folder as conversion, training and evaluation leave it, with the facts that no program knows."""
    config = json.loads((tiny_release / "config.json").read_text())
    config["provenance"] = {"encoder": {"source": "m-a-p/MERT-v1-95M"}, "heads": {"source": "amaai-lab/apex"}}
    (tiny_release / "config.json").write_text(json.dumps(config))
    names = ["score_streams", "score_likes", "coherence", "musicality", "memorability", "clarity", "naturalness"]
    (tiny_release / "results.json").write_text(json.dumps(make_split_results(names)))
    (tiny_release / "facts.json").write_text(json.dumps(PUBLISHED_FACTS))
    return tiny_release


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def list_blocks(card: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)


def test_numbers_are_those_of_the_result_file(render: Render, tiny_release: Path) -> None:
    edit_json(
        tiny_release / "results.json",
        lambda content: content["evaluations"]["test"]["scores"]["clarity"].update(
            spearman={"value": 0.4321, "low": 0.4111, "high": 0.4555}, mse=make_estimate(1.2345)
        ),
    )
    card = render()
    row = next(line for line in card.splitlines() if line.startswith("| `clarity` | 105"))
    assert "0.43 [0.41, 0.46]" in row
    assert row.endswith("| 1.23 [1.13, 1.33] | 0.80 |")
    assert "`clarity` misses its target: the rank correlation is 0.43, the target 0.50." in card
    assert "`clarity` has a larger MSE than the trivial baselines: 1.23 against 0.80." in card
    assert "2,000 synthetic songs of 20 s by `make tiny`" in card


def test_metadata_is_read_by_the_hub_and_holds_the_same_numbers(render: Render) -> None:
    data = ModelCard(render(), ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "audio-classification",
    )
    found = {(r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    assert len(found) == 2 * 7 * 3
    assert found["test", "Spearman, score_likes"] == 0.62
    assert found["unseen", "MSE, naturalness"] == 0.41


def test_the_hubs_own_validation_passes(render: Render, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    ModelCard(render()).validate()
    assert hub.count("POST", "validate-yaml") == 1
    with pytest.raises(ValueError, match="must be a string"):
        ModelCard(re.sub(r"^license: .*\n", "", render(), flags=re.MULTILINE)).validate()


def test_says_what_the_scores_mean(render: Render) -> None:
    card = render()
    assert "| `clarity` | 1 to 5 | aesthetics | clarity of song structure |" in card
    assert "| `naturalness` | 1 to 5 | aesthetics | naturalness of vocal breathing and phrasing |" in card
    assert "the median song scores 11.6, the 80th percentile 50.0" in card
    assert "no person has judged anything here" in card


def test_names_every_licence_and_what_it_means(converted_release: Path) -> None:
    card = render_model_card(build_model_facts(converted_release, no_arena_because=REASON, repo_id=REPO))
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.license, data.license_name) == ("other", "licenses-of-the-components")
    assert data.base_model == ["m-a-p/MERT-v1-95M"]
    assert data.datasets == ["ASLP-lab/SongEval", "sleeping-ai/suno-307K", "sleeping-ai/Udio-126K"]
    for cells in (
        "| apex-music (this code) | code | [Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0) | yes |",
        "| m-a-p/MERT-v1-95M | weights of the encoder | [CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/)",
        "| ASLP-lab/SongEval | source of aesthetic labels | [CC BY-NC-SA 4.0]",
        "| sleeping-ai/suno-307K | training songs | [CC BY-NC-ND 4.0]",
        "| sleeping-ai/Udio-126K | training songs | none stated by its owner | ask its owner |",
    ):
        assert cells in card
    assert "you may use the code, and not these weights as they are" in card
    assert "The weights contain those of amaai-lab/apex, m-a-p/MERT-v1-95M" in card


def test_pseudo_labels_are_called_so(converted_release: Path) -> None:
    card = render_model_card(build_model_facts(converted_release, no_arena_because=REASON, repo_id=REPO))
    assert "**Their training labels are pseudo-labels: the output of SongEval's model, not of people.**" in card
    assert "### Split test, suno" in card
    assert "| `score_likes` | 50 | 0.37 [0.27, 0.47] | 0.35 [0.25, 0.45] | 20.0 [19.9, 20.1] | 21.5 | 650" in card
    assert "one GPU, 3.50 hours, 1.25 kWh measured." in card
    assert "Questions: the issues of this repository" in card


def test_scores_without_labels_are_named(converted_release: Path) -> None:
    def drop_labels(content: dict) -> None:
        for heads in content["splits"]["test"].values():
            heads["naturalness"] = {**heads["naturalness"], "num_songs": 0}

    edit_json(converted_release / "results.json", drop_labels)
    card = render_model_card(build_model_facts(converted_release, no_arena_because=REASON, repo_id=REPO))
    assert "Not measured here, because no song has a label: `naturalness`." in card


@pytest.mark.parametrize("repo_id", [REPO, None])
def test_card_has_no_gap_and_its_tables_are_tables(render: Render, tmp_path: Path, repo_id: str | None) -> None:
    card = render(repo_id=repo_id)
    assert find_card_problems(card, tmp_path) == []
    html = MarkdownIt().enable("table").render(card.partition("\n---\n")[2])
    text_only = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert "|" not in text_only, "a table that is not one shows its bars"
    assert "**" not in text_only
    assert html.count("<table>") == 5
    assert "\n\n\n" not in card


def run_blocks(card: str, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run or parse every code block of a card in a folder that has a `song.mp3`; return the kinds of blocks."""
    programs = folder / "bin"
    programs.mkdir()
    command = programs / "apex-music"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modeling_apex.cli "$@"\n')
    command.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        **environment,
    }
    blocks = list_blocks(card)
    by_kind = {kind: [block for other, block in blocks if other == kind] for kind, _ in blocks}
    # Each block in names of its own; one process, because importing torch takes longer than all of them.
    in_python = f"for block in {by_kind['python']!r}: exec(block, {{'__name__': '__main__'}})"
    for words in ([sys.executable, "-c", in_python], ["bash", "-ec", *by_kind["bash"]]):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert "score_streams" in done.stdout
    json.loads(*by_kind["json"])
    assert by_kind["bibtex"][0].count("{") == by_kind["bibtex"][0].count("}")
    return [kind for kind, _ in blocks]


def test_every_code_block_runs(
    tiny_release: Path, hub: LoopbackHub, api: HfApi, song_file: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["--model", str(tiny_release), "--no-arena-because", REASON, "--repo", REPO]
    publish(build_parser().parse_args(words), api=api, say=lambda line: None)
    card = hub.get_files(REPO)["README.md"].decode()
    song_file("song.wav").rename(tmp_path / "song.mp3")  # the decoder looks at the content
    kinds = run_blocks(card, tmp_path, {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"})
    assert kinds == ["python", "python", "python", "bash", "json", "bibtex"]


def test_card_of_the_embedded_model(
    song_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    results = json.loads((EMBEDDED_MODEL / "results.json").read_text())
    reason = None if find_arena(EMBEDDED_MODEL, None) else REASON
    card = render_model_card(build_model_facts(EMBEDDED_MODEL, no_arena_because=reason))
    assert find_card_problems(card, EMBEDDED_MODEL) == []
    found = {(r.dataset_split, r.metric_name): r.metric_value for r in ModelCard(card).data.eval_results}
    for name, evaluation in results["evaluations"].items():
        for score, numbers in evaluation["scores"].items():
            assert found[name, f"Spearman, {score}"] == pytest.approx(numbers["spearman"]["value"], abs=1e-6)
    song_file("song.wav", seconds=1.0).rename(tmp_path / "song.mp3")
    (tmp_path / "modeling_apex").symlink_to(REPOSITORY / "modeling_apex")  # the card names a path of the repository
    monkeypatch.chdir(tmp_path)
    blocks = dict(list_blocks(card))
    exec(blocks["python"], {"__name__": "__main__"})  # noqa: S102 (the card's own example must run)
    assert "score_streams" in capsys.readouterr().out
    for line in blocks["bash"].splitlines():
        program, *words = shlex.split(line)
        assert program == "apex-music"
        assert run_command(words) == 0
    assert "It is apex-tiny (in this package): every number is equal." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            ("evaluations", "test", "scores", "clarity", "mae"),
            r"no `evaluations\.test\.scores\.clarity\.mae\.value`; at eval",
        ),
        (("evaluations", "unseen", "scores", "coherence"), r"no `evaluations\.unseen\.scores\.coherence\."),
        (("evaluations", "unseen", "num_songs"), r"no `evaluations\.unseen\.num_songs`"),
        (("training", "song_seconds"), r"no `training\.song_seconds`; at training there is num_parameters"),
        (("evaluations",), "neither `evaluations` nor `splits`"),
    ],
)
def test_a_missing_fact_stops_the_build(
    render: Render, tiny_release: Path, path: tuple[str, ...], message: str
) -> None:
    def drop(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    edit_json(tiny_release / "results.json", drop)
    with pytest.raises(MissingFactError, match=message):
        render()


@pytest.mark.parametrize("value", ["null", "NaN"])
def test_an_undefined_number_stops_the_build(render: Render, tiny_release: Path, value: str) -> None:
    results = tiny_release / "results.json"
    results.write_text(results.read_text().replace('"mae": {"value": 0.5', f'"mae": {{"value": {value}'))
    with pytest.raises(
        MissingFactError, match=r"`evaluations\.test\.scores\.score_streams\.mae\.value` is (None|nan)"
    ):
        render()


def test_what_is_not_defined_is_said_with_its_reason(render: Render, tiny_release: Path) -> None:
    few, same = "only 1 creator to resample, and 2 are needed", "the labels do not vary, so no correlation is defined"
    edit_json(
        tiny_release / "results.json",
        lambda content: content["evaluations"]["test"]["scores"]["clarity"].update(
            spearman={"value": None, "low": None, "high": None, "reason": same},
            mae={"value": 0.4, "low": None, "high": None, "reason": few},
        ),
    )
    card = render()
    cells = next(line for line in card.splitlines() if line.startswith("| `clarity` | 105")).split(" | ")
    assert cells[2] == "–"
    assert "0.40" in cells
    assert f"- No interval for `clarity`: {few}." in card
    assert f"- No number for `clarity`: {same}." in card
    found = {(r.dataset_split, r.metric_name) for r in ModelCard(card, ignore_metadata_errors=False).data.eval_results}
    assert ("test", "Spearman, clarity") not in found
    assert ("test", "MAE, clarity") in found


def test_an_empty_list_of_evaluations_stops_the_build(render: Render, tiny_release: Path) -> None:
    edit_json(tiny_release / "results.json", lambda content: content.update(evaluations={}))
    with pytest.raises(MissingFactError, match="the list of evaluations is empty"):
        render()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("title", "nothing says the model's title"),
        ("summary", "nothing says the model's summary"),
        ("training_summary", "nothing says the model's training_summary"),
        ("components", r"the model's heads comes from 'amaai-lab/apex', and nothing says under which licence"),
    ],
)
def test_a_fact_that_only_people_know_is_asked_for(converted_release: Path, name: str, message: str) -> None:
    edit_json(converted_release / "facts.json", lambda content: content.pop(name))
    with pytest.raises(MissingFactError, match=message):
        build_model_facts(converted_release, no_arena_because=REASON)


def test_label_sources_come_from_the_results_or_the_facts(converted_release: Path) -> None:
    edit_json(converted_release / "facts.json", lambda content: content.pop("aesthetic_labels"))
    assert build_model_facts(converted_release, no_arena_because=REASON).aesthetic_labels == "pseudo-labels"
    edit_json(converted_release / "results.json", lambda content: content.update(label_sources=[]))
    with pytest.raises(MissingFactError, match="nothing says who gave the aesthetic labels"):
        build_model_facts(converted_release, no_arena_because=REASON)
    edit_json(converted_release / "facts.json", lambda content: content.update(aesthetic_labels="an oracle"))
    with pytest.raises(ValueError, match=r"`aesthetic_labels` must be one of songeval-raters, .* got 'an oracle'"):
        build_model_facts(converted_release, no_arena_because=REASON)


def test_a_teacher_is_named(converted_release: Path) -> None:
    teacher = "owner/<b>x</b> (SHA-256 abababababab, 2026-11-26)"
    sources = [f"pseudo-labels of {teacher}"]
    edit_json(converted_release / "results.json", lambda content: content.update(label_sources=sources))
    card = render_model_card(build_model_facts(converted_release, no_arena_because=REASON))
    assert "the output of owner/\\<b\\>x\\</b\\> (SHA-256 abababababab, 2026-11-26), not of people.**" in card


def test_songs_must_be_named(converted_release: Path) -> None:
    edit_json(
        converted_release / "facts.json",
        lambda content: content.update(components=[c for c in content["components"] if c["role"] != "songs"]),
    )
    with pytest.raises(MissingFactError, match="nothing says on which songs the model was trained"):
        build_model_facts(converted_release, no_arena_because=REASON)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"titel": "x"}, "no card uses the field 'titel'; expected some of title, summary"),
        ({"title": ""}, "'title' must be a non-empty str, got ''"),
        ({"components": [{"name": "x"}]}, "component 0 must have name, role, license"),
        ({"energy": {"kwh": 2}}, "`energy` must have hardware and hours and may have kwh"),
        ([1], "expected a JSON object, got list"),
    ],
)
def test_facts_are_validated(tiny_release: Path, facts: object, message: str) -> None:
    (tiny_release / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message):
        build_model_facts(tiny_release, no_arena_because=REASON)


def test_files_must_be_there(tiny_release: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder, so it is not a model"):
        build_model_facts(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such result file"):
        build_model_facts(tiny_release, facts=tmp_path / "absent.json")
    (tiny_release / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        build_model_facts(tiny_release)
    with pytest.raises(FileNotFoundError, match="no safetensors in this folder"):
        count_parameters(tmp_path)


def test_parameters_are_counted_without_buffers(tiny_release: Path, tiny_model: ApexModel) -> None:
    assert count_parameters(tiny_release) == sum(parameter.numel() for parameter in tiny_model.parameters())


def test_an_unknown_name_in_a_template_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'facts' is undefined"):
        build_environment().from_string("{{ facts.title }}").render()


def test_without_jinja_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r'pip install "apex-music\[hub\]"'):
        build_environment()


def test_command_writes_the_card_or_says_why_not(
    tiny_release: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", str(tiny_release), "--output", str(tmp_path / "card")]
    assert main(words) == 2
    assert "build_card: nothing says how the model does on battles" in capsys.readouterr().err
    assert not (tmp_path / "card" / "README.md").exists()
    assert main([*words, "--no-arena-because", "TODO"]) == 2
    assert "not written: unknown fact: 'TODO' in line" in capsys.readouterr().err
    assert main([*words, "--no-arena-because", REASON]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "card" / "README.md")
    assert f"Not measured: {REASON}" in (tmp_path / "card" / "README.md").read_text()
