"""Training arguments: presets, differences, refusals; and the config that follows from them."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from modeling_apex.cli import build_parser
from modeling_apex.commands.training_options import collect_arguments
from modeling_apex.training.arguments import (
    MINIMUM_NUM_STEPS,
    ApexTrainingArguments,
    build_arguments,
    choose_batch_size,
    load_differences,
)
from modeling_apex.training.batches import count_steps, plan_batches
from modeling_apex.training.trained_model import build_training_config


def test_the_published_preset_is_the_paper() -> None:
    arguments = build_arguments()
    assert (arguments.learning_rate, arguments.weight_decay, arguments.num_epochs) == (1e-4, 1e-4, 50)
    assert choose_batch_size(arguments, 211_000) == 512
    assert (arguments.max_grad_norm, arguments.patience, arguments.seed) == (1.0, 20, 42)
    assert (arguments.mode, arguments.task, arguments.loss, arguments.num_shared_layers) == (
        "song",
        "full",
        "uncertainty",
        2,
    )
    assert arguments.selection == "loss"


def test_the_improved_preset_selects_by_what_no_weight_can_move() -> None:
    arguments = build_arguments("improved", seed=7)
    assert arguments.selection == "spearman"
    assert arguments.standardize_targets
    assert arguments.require_grouped_splits
    assert arguments.sigma_learning_rate is not None
    assert arguments.seed == 7


def test_command_line_beats_file_beats_preset(tmp_path: Path) -> None:
    file = tmp_path / "differences.json"
    file.write_text(json.dumps({"preset": "improved", "learning_rate": 0.5, "num_epochs": 7}))
    words = ["train", "embeddings", "--output", "run", "--arguments", str(file), "--num-epochs", "3"]
    words += ["--no-require-grouped-splits", "--num-shared-layers", "3"]
    arguments = collect_arguments(build_parser().parse_args(words))
    expected = {"learning_rate": 0.5, "num_epochs": 3, "require_grouped_splits": False, "num_shared_layers": 3}
    assert asdict(arguments) == asdict(build_arguments("improved", **expected))


@pytest.mark.parametrize(
    ("differences", "error", "message"),
    [
        ({"mode": "track"}, ValueError, "`mode` must be one of song, segment, got 'track'"),
        ({"num_shared_layers": 4}, ValueError, "`num_shared_layers` must be one of 2, 3, got 4"),
        ({"learning_rat": 1.0}, ValueError, "unknown training argument 'learning_rat'; did you mean 'learning_rate'?"),
        ({"zzz": 1.0}, ValueError, "unknown training argument 'zzz'; there are mode, task"),
        ({"num_epochs": "5"}, TypeError, "`num_epochs` must be an integer, got '5'"),
        ({"learning_rate": "1"}, TypeError, "`learning_rate` must be a number, got '1'"),
        ({"standardize_targets": 1}, TypeError, "`standardize_targets` must be true or false, got 1"),
        ({"num_epochs": 0}, ValueError, "`num_epochs` must be at least 1, got 0"),
        ({"batch_size": 1}, ValueError, "`batch_size` must be at least 2, for batch norm, got 1"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be positive"),
        ({"sigma_learning_rate": -1.0}, ValueError, "`sigma_learning_rate` must be positive, got -1"),
        ({"weight_decay": -0.1}, ValueError, "`weight_decay` must not be negative"),
        ({"weight_decay": math.nan}, ValueError, "`weight_decay` must be a finite number, got nan"),
        ({"learning_rate": math.inf}, ValueError, "`learning_rate` must be a finite number, got inf"),
        ({"sigma_learning_rate": "fast"}, TypeError, "`sigma_learning_rate` must be a number, got 'fast'"),
        ({"batch_size": True}, TypeError, "`batch_size` must be an integer, got True"),
        ({"num_shared_layers": 2.0}, TypeError, "`num_shared_layers` must be an integer, got 2.0"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0 and below 2**63, got -1"),
        ({"seed": 2**63}, ValueError, "`seed` must be at least 0 and below 2**63, got 9223372036854775808"),
        ({"patience": 0}, ValueError, "`patience` must be at least 1, got 0"),
        ({"max_grad_norm": 0}, ValueError, "`max_grad_norm` must be positive, got 0"),
        ({"target_column": ""}, ValueError, "`target_column` must not be empty, got ''"),
        ({"target_column": 5}, TypeError, "`target_column` must be text, got 5"),
        ({"preset": "best"}, ValueError, "`preset` must be one of published, improved, fusion, got 'best'"),
    ],
)
def test_refusals(differences: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        build_arguments(**differences)
    assert message in str(caught.value)


def test_every_option_has_a_place_in_the_help_and_values_that_are_refused() -> None:
    for option in fields(ApexTrainingArguments):
        assert option.metadata["group"], option.name
        assert option.metadata["help"], option.name
        assert option.type is bool or option.metadata["choices"] or option.metadata["limit"], option.name


def test_help_shows_the_options_in_groups(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "--help"])
    sections = capsys.readouterr().out.split("\n\n")
    for option in fields(ApexTrainingArguments):
        flag = "--" + option.name.replace("_", "-")
        shown = [section for section in sections if re.search(rf"^  {flag}\b", section, flags=re.MULTILINE)]
        assert [section.splitlines()[0] for section in shown] == [option.metadata["group"] + ":"], flag


def test_files_of_differences_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file of training arguments"):
        load_differences(tmp_path / "none.json")
    file = tmp_path / "broken.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_differences(file)
    file.write_text("[1]")
    with pytest.raises(ValueError, match="expected a JSON object"):
        load_differences(file)


def test_three_layers_have_one_of_mean_width_between(tiny_config: Callable) -> None:
    base = tiny_config(shared_dims=[512, 256])
    assert build_training_config(base, build_arguments(num_shared_layers=3)).shared_dims == [512, 384, 256]
    assert build_training_config(base, build_arguments(num_shared_layers=2)).shared_dims == [512, 256]
    config = build_training_config(base, build_arguments(mode="segment", task="popularity", train_encoder=True))
    assert config.prediction_level == "segment"
    assert config.head_names == ["score_streams", "score_likes"]
    assert not config.freeze_encoder
    assert base.freeze_encoder


def test_a_task_without_heads(tiny_config: Callable) -> None:
    heads = [{"name": "clarity", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics"}]
    with pytest.raises(ValueError, match="the task `popularity` leaves no head"):
        build_training_config(tiny_config(heads=heads), build_arguments(task="popularity"))


@pytest.mark.parametrize(
    ("num_rows", "preset", "differences", "expected"),
    [
        (413, "published", {}, 17),
        (413, "published", {"gradient_accumulation_steps": 2}, 8),
        (20, "improved", {}, 8),
        (12_287, "improved", {}, 511),
        (12_288, "improved", {}, 512),
        (10_000, "published", {"train_encoder": True}, 16),
        (10_000, "fusion", {}, 32),
        (413, "published", {"batch_size": 512}, 512),
    ],
)
def test_a_batch_size_that_is_not_named_fits_the_data(
    num_rows: int, preset: str, differences: dict, expected: int
) -> None:
    arguments = build_arguments(preset, **differences)
    size = choose_batch_size(arguments, num_rows)
    assert size == expected
    num_batches = len(plan_batches(num_rows, size, 0, 0))
    assert count_steps(num_rows, size) == num_batches
    if arguments.batch_size is None and num_rows >= 400:
        assert count_steps(num_rows, size, arguments.gradient_accumulation_steps) >= MINIMUM_NUM_STEPS
