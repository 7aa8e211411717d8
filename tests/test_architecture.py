"""The shape of the house, held by tests: who imports whom, what remote code may hold, where `print` may stand."""

import ast
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FLAT = sorted((REPOSITORY / "modeling_apex" / "inference").glob("*.py"))
# The rooms of the house and what each may import of the others: what stands before it, as far as it is named here.
ROOMS = {
    "inference": set(),
    "statistics": set(),
    "storage": set(),
    "engines": {"inference", "storage"},
    "containers": {"inference"},
    "download": {"inference", "storage"},
    "model_names": {"registration"},
    "loading": {"model_names", "inference", "engines", "storage"},
    "checkpoints": {"loading", "model_names", "engines", "inference", "storage"},
    "corpus": {"checkpoints", "loading", "model_names", "engines", "inference", "storage"},
    "arena": {"corpus", "loading", "model_names", "engines", "inference", "statistics", "storage"},
    "rewards": {"arena", "loading", "inference", "registration"},
    "robustness": {"arena", "corpus", "engines", "inference", "statistics", "storage"},
    "training": {"corpus", "checkpoints", "loading", "model_names", "engines", "inference", "statistics", "storage"},
    "personal": {
        "training",
        "arena",
        "corpus",
        "loading",
        "model_names",
        "engines",
        "inference",
        "statistics",
        "storage",
    },
}
PACKAGE = ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo")
REMOTE_REQUIREMENTS = {"torch", "transformers", "numpy"}
PRINTER = "modeling_apex/process_exit.py"  # its `print_lines` escapes what comes from outside


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


def relative_imports(path: Path) -> set[str]:
    return {node.module or "" for node in imports(path) if isinstance(node, ast.ImportFrom) and node.level}


def imported_rooms(path: Path) -> set[str]:
    """The rooms of `modeling_apex` that a file imports by their whole names, also inside its functions."""
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("modeling_apex.")}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    own = REPOSITORY / "modeling_apex" / room
    for path in sorted(own.rglob("*.py")) if own.is_dir() else [own.with_suffix(".py")]:
        allowed = {room, "registration", *ROOMS[room]} if ROOMS[room] else {room} - {"inference"}
        if path.name == "__main__.py":  # the entry of a command, which ends by the border of all commands
            allowed.add("process_exit")
        assert imported_rooms(path) <= allowed, path


def test_only_the_command_line_imports_commands() -> None:
    for path in python_files(*PACKAGE):
        if "commands" not in path.parts and path.name != "cli.py":
            assert "commands" not in imported_rooms(path), path


def test_only_commands_lead_to_the_programs_beside_the_package_and_import_them_when_they_run() -> None:
    programs = {"datasets_scripts", "hub_card", "spaces_demo"}
    for path in python_files("modeling_apex"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = imported_modules(path) if "commands" not in path.parts else {ast.unparse(node) for node in top}
        # The recipe of apex-tiny renders its songs by the synthetic world.
        if path.parent != REPOSITORY / "modeling_apex" / "training" / "tiny":
            assert not [name for name in names if programs & set(re.findall(r"\w+", name))], path


def test_no_command_imports_another() -> None:
    shared = {f"modeling_apex.commands.{name}" for name in ("options", "progress", "training_options")}
    for path in python_files("modeling_apex/commands"):
        others = {name for name in imported_modules(path) if name.startswith("modeling_apex.commands.")}
        assert others <= shared, path


def test_the_space_goes_through_the_public_door() -> None:
    for path in python_files("spaces_demo"):
        assert not imported_rooms(path), path


def test_rooms_have_no_circle_of_files() -> None:
    needs = {}
    for path in python_files("modeling_apex"):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module and not node.level}
        needs[name] = names | {f"{name.rpartition('.')[0]}.{module}" for module in relative_imports(path)}
    while leaves := [name for name, imported in needs.items() if not imported & set(needs)]:
        for name in leaves:
            del needs[name]
    assert not needs


@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_flat_files_import_each_other_as_remote_code_can(path: Path) -> None:
    for node in imports(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, ast.unparse(node)
            assert (path.parent / f"{node.module}.py").exists(), ast.unparse(node)


@pytest.mark.parametrize("path", FLAT, ids=lambda path: path.stem)
def test_flat_files_require_only_torch_transformers_and_numpy(path: Path) -> None:
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
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
    assert set(found) == relative_imports(path)
    assert not re.search(r"^\s*import\s+\.", path.read_text(), flags=re.MULTILINE)


def test_a_plain_folder_is_scored_without_transformers() -> None:
    inference = REPOSITORY / "modeling_apex" / "inference"
    unseen, seen = {REPOSITORY / "modeling_apex" / "engines" / "plain_folder.py"}, set()
    while unseen:
        path = unseen.pop()
        seen.add(path)
        assert not any(name.startswith("transformers") for name in imported_modules(path)), path
        needed = {inference / f"{name}.py" for name in relative_imports(path)}
        needed |= {
            REPOSITORY / f"{name.replace('.', '/')}.py"
            for name in imported_modules(path)
            if name.startswith("modeling_apex.")
        }
        unseen |= {path for path in needed if path.exists()} - seen


def test_command_line_lists_engines_without_torch() -> None:
    tree = ast.parse((REPOSITORY / "modeling_apex" / "engines" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_data_and_cards_need_no_torch() -> None:
    for path in python_files("datasets_scripts", "hub_card"):
        roots = {name.partition(".")[0] for name in imported_modules(path)}
        assert not roots & {"torch", "transformers", "accelerate"}, path


def test_only_one_function_prints_and_only_one_parser_says_what_is_wrong() -> None:
    for path in python_files(*PACKAGE):
        name = str(path.relative_to(REPOSITORY))
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and (getattr(node.func, "id", "") == "print" or getattr(node.func, "attr", "") == "ArgumentParser")
        ]
        assert len(calls) == (name == PRINTER), name


def test_no_module_has_a_name_that_says_nothing() -> None:
    for path in python_files(*PACKAGE):
        assert path.stem not in {"apex", "utils", "helpers", "common", "misc"}, path


def test_modules_open_with_what_they_are() -> None:
    for path in python_files(*PACKAGE):
        tree = ast.parse(path.read_text())
        assert not tree.body or ast.get_docstring(tree), path


@pytest.mark.parametrize("path", python_files(*PACKAGE), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_and_functions_stay_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
