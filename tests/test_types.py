"""What a type checker knows of the public names: an example that passes, and slips that it must find."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

from patience import PATIENCE

from modeling_apex import SongReport, load_scorer

REPOSITORY = Path(__file__).parent.parent
EXAMPLE = """
from modeling_apex import SongReport, load_pipeline, load_scorer


def best(reports: list[SongReport]) -> str | None:
    return max(reports, key=lambda report: report["scores"]["coherence"])["song"]


scorer = load_scorer("apex-tiny", device="cpu")
for report in scorer.score(["a.mp3"], on_error="report", return_timeline=True):
    if "error" in report:
        print(report["error"].upper())
    else:
        print(report["scores"]["clarity"] + 1, report["intervals"]["clarity"][0], report["segments"][0])
pipeline = load_pipeline()
one = pipeline("a.mp3")
print(one["duration_seconds"] / 60, best(pipeline(["a.mp3", "b.mp3"])))
"""
SLIPS = """
from modeling_apex import load_pipeline, load_scorer

report = next(load_scorer().score(["a.mp3"]))
report["score"]
report["scores"].upper()
load_scorer().score(["a.mp3"], return_timelin=True)
load_scorer(devise=1, batch_size="many")
load_pipeline()("a.mp3")["warning"]
load_pipeline()(["a.mp3"])["scores"]
"""
# Libraries that are not under test are not read: it would take most of a minute.
SETTINGS = """
[mypy]
ignore_missing_imports = True
[mypy-torch.*,transformers.*,huggingface_hub.*,numpy.*,scipy.*]
follow_imports = skip
"""


def test_the_checker_passes_the_example_and_finds_the_slips(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLE)
    (tmp_path / "slips.py").write_text(SLIPS)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    words = ["--config-file", "mypy.ini", "--follow-imports", "silent", "--no-incremental", "example.py", "slips.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        cwd=tmp_path,
        env={"MYPYPATH": str(REPOSITORY), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    found = [line.partition(": error: ")[::2] for line in done.stdout.splitlines() if ": error: " in line]
    assert [place for place, _ in found] == [f"slips.py:{line}" for line in (5, 6, 7, 8, 9, 10)], done.stdout
    for (_, said), expected in zip(
        found,
        (
            'TypedDict "SongReport" has no key "score"',
            '"dict[str, float]" has no attribute "upper"',
            'Unexpected keyword argument "return_timelin"',
            'Argument "batch_size" to "load_scorer" has incompatible type "str"',
            'TypedDict "SongReport" has no key "warning"',
            "No overload variant",
        ),
        strict=True,
    ):
        assert expected in said


def test_the_types_are_those_of_reports() -> None:
    options = {"return_timeline": True, "return_embedding": True}
    song = str(REPOSITORY / "spaces_demo" / "samples" / "1-good-pop.ogg")
    scored, failed = load_scorer().score([song, "absent.mp3"], on_error="report", **options)
    known = set(get_type_hints(SongReport))
    assert set(scored) | set(failed) <= known
    assert SongReport.__required_keys__ == set(scored) & set(failed)
    # What apex-tiny's reports do not say: another scale of percentiles, and track features.
    assert known - set(scored) - set(failed) <= {"training_percentiles", "features"}


def test_the_package_says_that_it_is_typed() -> None:
    assert files("modeling_apex").joinpath("py.typed").is_file()
