"""What an installation consists of: bounds, pins, licences, the wheel, and what importing it touches."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from patience import PATIENCE

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINES = [*PROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
REQUIREMENTS = [Requirement(line) for line in LINES if not line.startswith("apex-music")]
# Libraries whose new majors removed or renamed what this package stands on.
BOUNDED = {"transformers", "huggingface_hub", "datasets", "accelerate", "gradio", "httpx"}

# Prints what importing does to the outside: files opened for writing, folders, sockets, processes.
IMPORT = """
import sys
seen = []
def note(event, arguments):
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        is_cache = "__pycache__" in str(arguments[0])
        if not is_cache and (any(letter in str(mode or "") for letter in "wax+") or (flags or 0) & 0o3):
            seen.append((event, arguments[0]))
    elif event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.")):
        if event != "socket.gethostname":
            seen.append((event, *map(str, arguments)))
sys.addaudithook(note)
import modeling_apex
import modeling_apex.cli
import logging
assert not logging.getLogger().handlers
assert not logging.getLogger("modeling_apex").handlers
assert logging.getLogger("modeling_apex").level == logging.NOTSET
print(seen)
"""


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "tests" / "benchmarks"), *sys.path])


def test_majors_that_broke_us_are_bounded() -> None:
    for requirement in REQUIREMENTS:
        if requirement.name in BOUNDED:
            assert any(bound.operator in ("<", "<=") for bound in requirement.specifier), requirement
    assert {requirement.name for requirement in REQUIREMENTS} >= BOUNDED


def test_the_lock_pins_every_requirement_within_its_bounds() -> None:
    lines = (REPOSITORY / "requirements-ci.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(pin.url is None and str(pin.specifier).startswith("==") for pin in pins)
    locked = {canonicalize_name(pin.name): Version(str(pin.specifier)[2:]) for pin in pins}
    assert "torch" not in locked, "torch is pinned in constraints.txt, so that any build of it may be there already"
    for requirement in REQUIREMENTS:
        if requirement.name != "torch":
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_every_licence_is_allowed_and_known(benchmarks: None) -> None:
    import report_licenses

    report = json.loads((REPOSITORY / "tests/benchmarks/results/licenses.json").read_text(encoding="utf-8"))
    assert report["num_refused"] == 0
    assert report["num_packages"] == len(report["packages"])
    direct = {canonicalize_name(requirement.name) for requirement in report_licenses.read_requirements()}
    assert direct <= set(report["packages"]), "run `make licenses`"
    assert all(report_licenses.is_allowed(facts["license"]) for facts in report["packages"].values())


def test_what_wheels_carry_beside_their_own_code_is_stated(benchmarks: None) -> None:
    import report_licenses

    names = ["av/__init__.py", "av.libs/libx264-0a1b.so.165", "../av.libs/libx265-0a1b.so.216", "av.libs/libopus.so.0"]
    assert report_licenses.find_bundled(names) == {"libx264": "GPL-2.0-or-later", "libx265": "GPL-2.0-or-later"}
    report = json.loads((REPOSITORY / "tests/benchmarks/results/licenses.json").read_text(encoding="utf-8"))
    assert set(report["packages"]["av"]["bundled"]) == {"libx264", "libx265"}
    for name, facts in report["packages"].items():
        assert "bundled" not in facts or facts["decision"], name


@pytest.mark.parametrize(
    ("metadata", "classifiers", "expected"),
    [
        ({"License-Expression": "MIT AND Zlib"}, ["License :: OSI Approved :: BSD License"], "MIT AND Zlib"),
        ({"License": "MPL-2.0 AND MIT"}, [], "MPL-2.0 AND MIT"),
        ({}, ["License :: OSI Approved", "License :: OSI Approved :: MIT License"], "MIT"),
        ({"License": "BSD 3-Clause License\n\nCopyright"}, ["Topic :: Sound"], "BSD-3-Clause"),
        ({}, ["License :: Other/Proprietary License", "License :: OSI Approved :: MIT License"], ""),
        ({"License": "see the file"}, [], ""),
    ],
)
def test_licences_are_read_as_packages_state_them(
    benchmarks: None, metadata: dict, classifiers: list, expected: str
) -> None:
    import report_licenses

    assert report_licenses.find_license(metadata, classifiers) == expected


def test_licences_that_are_not_allowed_are_refused(benchmarks: None) -> None:
    import report_licenses

    for expression in ("MIT", "GPL-3.0-only OR MIT", "MPL-2.0 AND (Apache-2.0 OR MIT)"):
        assert report_licenses.is_allowed(expression), expression
    for expression in ("", "GPL-3.0-only", "MIT AND AGPL-3.0-only", "MIT AND (GPL-2.0-only OR BSD-3-Clause)"):
        assert not report_licenses.is_allowed(expression), expression


def list_tracked_files() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout, so nothing says which files belong to the package")
    return [name for name in done.stdout.splitlines() if (REPOSITORY / name).exists()]


def test_the_wheel_holds_what_it_should_and_nothing_else(tmp_path: Path) -> None:
    tracked = list_tracked_files()
    tree = tmp_path / "tree"
    for name in tracked:  # a copy: building leaves folders behind
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((REPOSITORY / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--wheel-dir", tmp_path, tree], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("dist-info/METADATA"))).decode()
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    data = [f"{package}/{pattern}" for package, found in patterns.items() for pattern in found]
    packages = [f"{name}/" for name in patterns] + ["datasets_scripts/"]
    expected = {
        name
        for name in tracked
        if name.startswith(tuple(packages))
        and (
            name.endswith(".py")
            or any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in data)
        )
    }
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == expected
    assert {Path(name).name for name in info} >= {"METADATA", "RECORD", "WHEEL", "LICENSE", "entry_points.txt"}
    assert "modeling_apex/pretrained/apex-tiny/model.safetensors" in expected
    assert not [name for name in names if name.endswith((".pyc", ".lock", ".partial", ".writing", ".npy"))]
    assert "License-Expression: Apache-2.0" in metadata


def test_import_touches_nothing_outside(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_import_costs_little_above_transformers(benchmarks: None) -> None:
    from measure_import import measure_imports

    report = json.loads((REPOSITORY / "tests/benchmarks/results/import.json").read_text(encoding="utf-8"))
    assert report["apex_seconds_above"] < 0.3
    # Here, on whatever else this machine does: far less than transformers itself.
    transformers_seconds, apex_seconds = min((measure_imports() for _ in range(2)), key=lambda seconds: seconds[1])
    assert apex_seconds < max(0.3, 0.5 * transformers_seconds)
