"""
The licence of every package that an installation of apex-music[all] brings, read from what is installed here.

    python tests/benchmarks/report_licenses.py --output tests/benchmarks/results/licenses.json

Starts at this project's dependencies and follows theirs, as far as they apply to this platform. The status is 1 if a
package states no licence, or one that is not allowed here. A build of torch for CUDA brings NVIDIA's libraries under
NVIDIA's own terms; those are not in this list.
"""

import argparse
import json
import platform
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
# By SPDX identifier: what an Apache-2.0 package may depend on without terms reaching its users' own code.
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "LGPL-2.1-or-later", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense",
    "Zlib",
}  # fmt: skip
# Texts and classifiers in place of an identifier; the first pattern that is found counts.
TEXTS = (
    (r"apache", "Apache-2.0"),
    (r"mozilla public license 2|mpl[- ]?2", "MPL-2.0"),
    (r"lesser general public license v2 or later|lgpl-?v?2\.1\+|lgplv2\+", "LGPL-2.1-or-later"),
    (r"3-clause|bsd[- ]3|new bsd|modified bsd", "BSD-3-Clause"),
    (r"2-clause|simplified bsd", "BSD-2-Clause"),
    (r"\bbsd\b", "BSD"),
    (r"mit-cmu|hpnd", "HPND"),
    (r"\bmit\b", "MIT"),
    (r"\bisc\b", "ISC"),
    (r"python software foundation|\bpsf", "PSF-2.0"),
    (r"unlicense", "Unlicense"),
    (r"zlib", "Zlib"),
)  # fmt: skip
# Libraries inside of wheels whose licence is another one than their package states, by the start of a file's name.
BUNDLED = {"libx264": "GPL-2.0-or-later", "libx265": "GPL-2.0-or-later"}
# Why a package is allowed although its wheel carries what is not.
DECISIONS = {
    "av": "PyAV's own code is BSD-3-Clause, and its wheel carries FFmpeg linked with x264 and x265, whose code is "
    "GPL-2.0-or-later. It is an optional extra (`audio`), which a user installs from its makers; nothing of it is "
    "copied into or distributed with this package, which decodes only and calls no encoder of either library. Whoever "
    "passes an environment or an image with that wheel on passes GPL binaries on, under the terms of the GPL; without "
    "the extra there are none.",
}
# Packages whose metadata states no licence that can be read; looked up in their source.
STATED_ELSEWHERE: dict[str, str] = {}


def find_license(metadata: Mapping[str, str], classifiers: Iterable[str]) -> str:
    """
    Find the licence that a package states.

    Args:
        metadata (`Mapping`):
            Its metadata: `License-Expression`, `License`.
        classifiers (`Iterable[str]`):
            Its trove classifiers.

    Returns:
        `str`: an SPDX expression, or an empty string if none can be read.
    """
    if expression := metadata.get("License-Expression"):
        return expression
    field = (metadata.get("License") or "").strip().split("\n")[0]
    if field and set(re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", field)) <= ALLOWED:
        return field  # an expression in the old place
    statements = [line.rpartition("::")[2].strip() for line in classifiers if line.startswith("License ::")]
    found = [_read_statement(line) for line in statements if line != "OSI Approved"] or [_read_statement(field)]
    return "" if "" in found else " AND ".join(sorted(set(found)))


def _read_statement(statement: str) -> str:
    found = (name for pattern, name in TEXTS if re.search(pattern, statement, flags=re.IGNORECASE))
    return next(found, "")


def is_allowed(expression: str) -> bool:
    """Tell whether an SPDX expression can be satisfied by allowed licences alone."""
    choices = re.split(r"\s+OR\s+", expression.replace("(", " ").replace(")", " "))
    parts = [re.split(r"\s+(?:AND|WITH)\s+", choice.strip()) for choice in choices]
    if " AND " in expression and " OR " in expression:  # mixed: without the brackets, all of it must be allowed
        return all(part.strip() in ALLOWED for choice in parts for part in choice)
    return any(all(part.strip() in ALLOWED for part in choice) for choice in parts)


def read_requirements() -> list[Requirement]:
    """Return what apex-music[all] asks for directly."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines, unseen = list(project["dependencies"]), ["all"]
    while unseen:
        for line in extras[unseen.pop()]:
            requirement = Requirement(line)
            if requirement.name == "apex-music":
                unseen += requirement.extras
            else:
                lines.append(line)
    return [Requirement(line) for line in lines]


def collect_tree(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """Follow requirements to every installed package that they bring on this platform."""
    found: dict[tuple[str, str], Distribution] = {}
    unseen = [(requirement, "") for requirement in requirements]
    while unseen:
        requirement, extra = unseen.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key in found:
                continue
            try:
                found[key] = distribution(requirement.name)
            except PackageNotFoundError as error:
                raise SystemExit(f"{requirement} is not installed here: run `make setup` first.") from error
            unseen += [(Requirement(line), wanted) for line in found[key].requires or []]
    return {name: package for (name, _), package in sorted(found.items())}


def find_bundled(names: Iterable[str]) -> dict[str, str]:
    """Find libraries inside of a wheel, by its file names, that are licensed otherwise than their package states."""
    bases = {name.rpartition("/")[2] for name in names}
    return {library: stated for library, stated in BUNDLED.items() if any(name.startswith(library) for name in bases)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Report the licences of all dependencies.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    options = parser.parse_args()
    packages = {}
    for name, package in collect_tree(read_requirements()).items():
        stated = find_license(dict(package.metadata.items()), package.metadata.get_all("Classifier") or [])
        stated = stated or STATED_ELSEWHERE.get(name, "")
        packages[name] = {"version": package.version, "license": stated, "is_allowed": is_allowed(stated)}
        if bundled := find_bundled(map(str, package.files or [])):
            packages[name] |= {"bundled": bundled, "decision": DECISIONS.get(name)}
            packages[name]["is_allowed"] &= name in DECISIONS
    refused = {name: facts["license"] for name, facts in packages.items() if not facts["is_allowed"]}
    result = {
        "command": "python tests/benchmarks/report_licenses.py",
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "num_packages": len(packages),
        "num_refused": len(refused),
        "packages": packages,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{len(packages)} packages, {len(refused)} with a licence that is not allowed or not stated")
    for name, facts in packages.items():
        if "bundled" in facts:
            print(f"  {name}: its wheel carries {', '.join(f'{one} ({by})' for one, by in facts['bundled'].items())}")
    for name, stated in refused.items():
        print(f"  {name}: {stated or 'states none'}", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
