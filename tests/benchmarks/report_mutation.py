"""
The score of a mutation run: of all small changes to the code, how many make a test fail.

    make mutation

Reads what `mutmut run` left in `mutants/`. A mutant counts as noticed when a test failed, and as timed out when its
tests took many times their usual time, which an endless loop does; the score counts neither timeouts nor anything else
as noticed. What survived is listed with its change. `EQUIVALENT` names the kinds of change that no test can notice
because they change nothing; they are counted as survivors all the same.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# Exit codes of pytest under mutmut: 1 a test failed, 3 pytest itself did; 0 all passed.
NOTICED = {1, 3}
TIMED_OUT = {-24, 24, 36, 152, 255}
EQUIVALENT = (
    'float("NAN") is float("nan")',
    "np.full and np.empty without a type make int64 or float64, as stated, on 64-bit systems other than old Windows",
    "np.asarray without a type in split_segments, where the array that it is copied into converts",
    "a stable sort and another give tied values the same average rank",
    "a segment's `is_last` is set again before it leaves",
    "`persistent=None` is `persistent=False`, and reshape(-2) is reshape(-1), to these libraries",
)


def read_results(folder: Path) -> dict[str, dict[str, int | None]]:
    """Return the exit code of every mutant, by file."""
    results = {}
    for path in sorted(folder.rglob("*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes:
            results[str(path.relative_to(folder)).removesuffix(".meta")] = codes
    return results


def describe_change(name: str) -> str:
    """Return the lines that a mutant changes."""
    shown = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    changed = [line for line in shown if line.startswith(("-", "+")) and not line.startswith(("---", "+++"))]
    return "\n".join(line[0] + " " + line[1:].strip() for line in changed)


def main() -> int:
    parser = argparse.ArgumentParser(description="Report the score of a mutation run.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--note", metavar="TEXT", help="how the run differed from `make mutation`, for the report")
    parser.add_argument("--minimum", type=float, default=0.85, metavar="X", help="least score (%(default)s)")
    options = parser.parse_args()
    files, survivors = {}, {}
    for path, codes in read_results(REPOSITORY / "mutants").items():
        unchecked = sum(code is None for code in codes.values())
        if unchecked:
            raise SystemExit(f"{path}: {unchecked} mutants were not tried; let `mutmut run` finish.")
        noticed = sum(code in NOTICED for code in codes.values())
        timed_out = sum(code in TIMED_OUT for code in codes.values())
        files[path] = {"mutants": len(codes), "noticed": noticed, "timed_out": timed_out}
        files[path]["score"] = round(noticed / len(codes), 4)
        survivors |= {name: describe_change(name) for name, code in codes.items() if code not in NOTICED | TIMED_OUT}
    totals = {name: sum(entry[name] for entry in files.values()) for name in ("mutants", "noticed", "timed_out")}
    score = totals["noticed"] / max(totals["mutants"], 1)
    result = {
        "command": "make mutation",
        **({"note": options.note} if options.note else {}),
        "mutmut": version("mutmut"),
        **totals,
        "score": round(score, 4),
        "files": files,
        "equivalent_kinds": EQUIVALENT,
        "survivors": survivors,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{totals['noticed']} of {totals['mutants']} mutants noticed: {score:.1%}")
    return int(score < options.minimum)


if __name__ == "__main__":
    sys.exit(main())
