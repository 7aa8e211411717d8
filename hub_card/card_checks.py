"""
Say what is wrong with a card: gaps, metadata that the Hub would not read, links to files that are not there.

What comes in is the text of a card and the folder that it stands in; what leaves is a list of problems.
"""

import os
import re
from pathlib import Path

from modeling_apex.checkpoints.component_licenses import COMBINED_LICENSE_ID

CARD_NAME = "README.md"
# What a template, a careless hand or an undefined number leaves behind.
GAPS = re.compile(
    r"\{\{|\}\}|\{%|%\}|\[More Information Needed\]|\b(?:TODO|TBD|FIXME|XXX|THIS_REPOSITORY|Undefined)\b|"
    r"(?<![\w.-])(?:nan|NaN|None|inf)(?![\w.-])"
)
# The identifiers that the Hub knows (huggingface.co/docs/hub/repositories-licenses).
HUB_LICENSES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigcode-openrail-m",
        "afl-3.0",
        "artistic-2.0",
        "bsl-1.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "c-uda",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "wtfpl",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "agpl-3.0",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "isc",
        "h-research",
        "intel-research",
        "lppl-1.3c",
        "ms-pl",
        "apple-ascl",
        "apple-amlr",
        "mpl-2.0",
        "odc-by",
        "odbl",
        "openmdw-1.0",
        "openrail++",
        "osl-3.0",
        "postgresql",
        "ofl-1.1",
        "ncsa",
        "unlicense",
        "zlib",
        "pddl",
        "lgpl-lr",
        "deepfloyd-if-license",
        "fair-noncommercial-research-license",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "grok2-community",
        "gemma",
        "unknown",
        "other",
    ]
)
_CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def find_card_problems(content: str, folder: str | os.PathLike, *, repo_type: str = "model") -> list[str]:
    """
    Find what keeps a card from being published.

    Args:
        content (`str`):
            The card.
        folder (`str` or `os.PathLike`):
            The folder that holds what it links to.
        repo_type (`str`, defaults to `"model"`):
            `"model"`, `"dataset"` or `"space"`; a Space's front matter is not a card's, so only its gaps and links are
            looked at.

    Returns:
        `list[str]`: problems, in words.
    """
    problems = [f"unknown fact: {gap!r} in line {line}" for line, gap in find_gaps(content)]
    if repo_type in ("model", "dataset"):
        problems += _find_metadata_problems(content, repo_type=repo_type)
    for target in _LINK.findall(_CODE.sub("", content)):
        is_local = "://" not in target and not target.startswith(("#", "mailto:"))
        if is_local and not (Path(folder) / target.partition("#")[0]).is_file():
            problems.append(f"links to {target}, which is not in the folder")
    return problems


def find_gaps(content: str) -> list[tuple[int, str]]:
    """Find what stands in a card in place of a fact, as line numbers and texts; code blocks are left out."""
    gaps = []
    # Keep the line numbers: a code block becomes as many empty lines.
    text = _CODE.sub(lambda match: "\n" * match[0].count("\n"), content)
    for number, line in enumerate(text.splitlines(), start=1):
        gaps += [(number, match[0]) for match in GAPS.finditer(line)]
    placeholder = re.search(r"THIS_REPOSITORY", content)
    if placeholder and not any(gap == "THIS_REPOSITORY" for _, gap in gaps):
        gaps.append((content.count("\n", 0, placeholder.start()) + 1, placeholder[0]))
    return gaps


def _find_metadata_problems(content: str, *, repo_type: str) -> list[str]:
    """Check the front matter the way huggingface_hub reads it."""
    from huggingface_hub import DatasetCard, ModelCard

    card_class = ModelCard if repo_type == "model" else DatasetCard
    try:
        data = card_class(content, ignore_metadata_errors=False).data
    except Exception as error:  # YAML and model-index errors of many kinds: all mean that the Hub cannot read it
        return [f"the front matter cannot be read: {error}"]
    problems = []
    if not data.license:
        problems.append("the front matter names no license")
    elif data.license not in HUB_LICENSES:
        problems.append(
            f"the license {data.license!r} is not one that the Hub knows; choose one of "
            f"{', '.join(sorted(HUB_LICENSES))}"
        )
    elif data.license == COMBINED_LICENSE_ID and not (data.get("license_name") and data.get("license_link")):
        problems.append("the license is `other`, which also needs license_name and license_link")
    if repo_type == "model":
        names = ("library_name", "pipeline_tag")
        problems += [f"the front matter names no {name}" for name in names if not data.get(name)]
    return problems
