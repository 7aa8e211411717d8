"""The shape of the house, held by tests: who imports whom, what remote code may hold, where `print` may stand."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FLAT = sorted((REPOSITORY / "modeling_apex").glob("*_apex.py"))
# What each file that is shipped to the Hub may import of the others; everything else is forbidden.
FLAT_IMPORTS = {
    "heads_apex": set(),
    "audio_limits_apex": set(),
    "download_apex": {"audio_limits_apex"},
    "decoding_apex": {"audio_limits_apex", "download_apex"},
    "checkpoint_limits_apex": set(),
    "published_apex": {"checkpoint_limits_apex"},
    "configuration_fields_apex": {"checkpoint_limits_apex", "heads_apex"},
    "configuration_apex": {"checkpoint_limits_apex", "configuration_fields_apex", "heads_apex"},
    "normalization_apex": set(),
    "read_ahead_apex": set(),
    "score_heads_apex": {"worker_threads_apex"},
    "worker_threads_apex": set(),
    "report_apex": {"heads_apex"},
    "resampling_apex": {"audio_limits_apex", "decoding_apex"},
    "audio_apex": {"audio_limits_apex", "decoding_apex", "resampling_apex"},
    "feature_extraction_apex": {
        "audio_apex",
        "audio_limits_apex",
        "checkpoint_limits_apex",
        "decoding_apex",
        "download_apex",
        "normalization_apex",
        "resampling_apex",
    },
    "track_features_apex": set(),
    "scoring_apex": {"audio_apex", "audio_limits_apex", "normalization_apex", "report_apex", "track_features_apex"},
    "modeling_apex": {
        "checkpoint_limits_apex",
        "configuration_apex",
        "configuration_fields_apex",
        "heads_apex",
        "mapped_weights_apex",
        "packed_encoder_apex",
        "packed_linear_apex",
        "published_apex",
        "score_heads_apex",
        "worker_threads_apex",
    },
    "mapped_weights_apex": set(),
    "packed_encoder_apex": {"mapped_weights_apex", "packed_linear_apex", "worker_threads_apex"},
    "packed_linear_apex": set(),
    "configuration_spectrogram_fusion_apex": {
        "checkpoint_limits_apex",
        "configuration_fields_apex",
        "heads_apex",
        "track_features_apex",
    },
    "modeling_spectrogram_fusion_apex": {
        "checkpoint_limits_apex",
        "configuration_apex",
        "configuration_fields_apex",
        "configuration_spectrogram_fusion_apex",
        "heads_apex",
        "mapped_weights_apex",
        "modeling_apex",
        "packed_encoder_apex",
        "packed_linear_apex",
        "published_apex",
        "score_heads_apex",
        "track_features_apex",
        "worker_threads_apex",
    },
    "pipeline_apex": {
        "audio_apex",
        "audio_limits_apex",
        "checkpoint_limits_apex",
        "decoding_apex",
        "download_apex",
        "feature_extraction_apex",
        "heads_apex",
        "normalization_apex",
        "read_ahead_apex",
        "report_apex",
        "resampling_apex",
        "scoring_apex",
        "track_features_apex",
        "worker_threads_apex",
    },
}
ENTRY_FILES = (
    "configuration_apex",
    "configuration_spectrogram_fusion_apex",
    "feature_extraction_apex",
    "modeling_apex",
    "modeling_spectrogram_fusion_apex",
    "pipeline_apex",
)
REMOTE_REQUIREMENTS = {"torch", "transformers", "numpy"}
PRINTERS = (
    "modeling_apex/cli.py",
    "modeling_apex/commands/",
    "datasets_scripts/build.py",
    "hub_card/",
    "spaces_demo/deploy.py",
)


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.level == 0:
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_flat_files_import_only_what_they_may(path: Path) -> None:
    relative = [node for node in imports(path) if isinstance(node, ast.ImportFrom) and node.level]
    assert all(node.level == 1 and node.module and "." not in node.module for node in relative)
    assert {node.module for node in relative} == FLAT_IMPORTS[path.stem]
    assert not any(name.partition(".")[0] == "modeling_apex" for name in imported_modules(path))


@pytest.mark.parametrize("entry", ENTRY_FILES)
def test_entry_files_name_all_that_they_need(entry: str) -> None:
    needed, unseen = set(), [entry]
    while unseen:
        imported = FLAT_IMPORTS[unseen.pop()] - needed
        needed |= imported
        unseen += imported
    assert FLAT_IMPORTS[entry] == needed


@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_flat_files_require_only_torch_transformers_and_numpy(path: Path) -> None:
    import sys

    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    roots = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in top
        if not getattr(node, "level", 0)
        for alias in node.names
    }
    assert roots - set(sys.stdlib_module_names) <= REMOTE_REQUIREMENTS


@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_text_that_remote_loading_would_take_for_an_import_stands_nowhere_else(path: Path) -> None:
    # transformers finds the files to copy by this pattern, in code and in docstrings alike.
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(), flags=re.MULTILINE)
    assert set(found) == FLAT_IMPORTS[path.stem]
    assert not re.search(r"^\s*import\s+\.", path.read_text(), flags=re.MULTILINE)


def test_only_the_doors_of_transformers_import_it() -> None:
    importers = {path.stem for path in FLAT if any(name.startswith("transformers") for name in imported_modules(path))}
    doors = ("configuration", "feature_extraction", "modeling", "pipeline", "published")
    second_model = ("configuration_spectrogram_fusion", "modeling_spectrogram_fusion")
    assert importers <= {f"{name}_apex" for name in (*doors, *second_model)}
    assert not any(
        "transformers" in name for name in imported_modules(REPOSITORY / "modeling_apex" / "quick_start.py")
    )


def test_report_needs_the_standard_library_only() -> None:
    import sys

    roots = {name.partition(".")[0] for name in imported_modules(REPOSITORY / "modeling_apex" / "report_apex.py")}
    assert roots <= set(sys.stdlib_module_names)


def test_inference_never_imports_training_or_commands() -> None:
    for path in FLAT:
        assert not re.search(r"\b(training|commands|convert|export|cli)\b", " ".join(imported_modules(path)))


def test_engines_know_nothing_of_training_or_commands() -> None:
    for path in python_files("modeling_apex/engines"):
        assert not re.search(r"modeling_apex\.(training|commands|arena|cli)\b", " ".join(imported_modules(path))), path


def test_command_line_lists_engines_without_torch() -> None:
    tree = ast.parse((REPOSITORY / "modeling_apex" / "engines" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_data_and_cards_need_no_torch() -> None:
    for path in python_files("datasets_scripts", "hub_card"):
        roots = {name.partition(".")[0] for name in imported_modules(path)}
        assert not roots & {"torch", "transformers", "accelerate"}, path


def test_only_the_command_line_prints() -> None:
    for path in python_files("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo"):
        name = str(path.relative_to(REPOSITORY))
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not calls or name.startswith(PRINTERS), name


def test_no_module_has_a_name_that_says_nothing() -> None:
    for path in python_files("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo"):
        assert path.stem not in {"apex", "utils", "helpers", "common", "misc"}, path


def test_modules_open_with_what_they_are() -> None:
    for path in python_files("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo"):
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), path


def test_registration_watches_every_flat_file() -> None:
    from modeling_apex.registration import FLAT_MODULES

    assert set(FLAT_MODULES) == {f"modeling_apex.{path.stem}" for path in FLAT}


def test_every_flat_file_is_typed_strictly() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    strict = next(override for override in settings if override.get("disallow_any_generics"))
    assert set(strict["module"]) == {f"modeling_apex.{path.stem}" for path in FLAT}
