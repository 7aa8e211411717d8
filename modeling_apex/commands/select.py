"""`apex-music select`: the best takes of each prompt, and pairs to learn from."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.arena.preference import PreferenceHead, load_preference_head
from modeling_apex.arena.ranking import choose_scores, find_groups
from modeling_apex.arena.selection import (
    FLOORS,
    PAIRINGS,
    Candidate,
    Choice,
    build_key,
    build_pairs,
    choose_best,
    take_top_share,
)
from modeling_apex.commands.options import add_scoring_arguments, positive_int, score_songs
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.corpus.song_ids import SONG_COLUMNS
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.inference.report_apex import format_count, format_table
from modeling_apex.process_exit import print_lines
from modeling_apex.storage.cell_values import parse_number
from modeling_apex.storage.output_folder import replace_texts
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.storage.table_reader import get_table_suffix, iterate_rows

HELP = "choose the best takes of each prompt, and write pairs for preference training"
DESCRIPTION = (
    "Choose the best songs of each group, from a folder, which is scored, or from a table that holds scores: what "
    "`apex-music score --output` wrote, with or without columns of your own. Writes selected.jsonl, pairs.jsonl "
    "(chosen and rejected, for DPO and the like) and top_decile.jsonl."
)
EXAMPLES = (
    "takes/ --output runs/best",
    "scores.jsonl --of-group prompt --best 2 --margin 0.3 --output runs/best",
    "scores.csv --of-group prompt --fuse word_error_rate=-1 --fuse clap=0.5 --output runs/best",
)
FOLDER = "folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scoring_arguments(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for what is chosen")
    parser.add_argument(
        "--of-group",
        default=FOLDER,
        metavar="COLUMN",
        help="column that says which songs are takes of one thing, such as prompt (default: the folder of a song)",
    )
    parser.add_argument("--best", type=positive_int, default=1, metavar="N", help="songs of each group (default: 1)")
    parser.add_argument(
        "--by",
        metavar="SCORE",
        help="as in `apex-music rank`: preference, all, popularity, aesthetics, or one score (default: preference "
        "where the model has a preference head, else all)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="M",
        help="choose nothing from a group unless the last chosen leads the next by M: in logits of the preference "
        "head, in the unit of one score, in percentile ranks elsewhere (default: 0)",
    )
    parser.add_argument(
        "--floor",
        choices=FLOORS,
        help="leave out songs with any score below that of the group's first song, or below the group's median",
    )
    parser.add_argument(
        "--fuse",
        action="append",
        default=[],
        metavar="COLUMN[=WEIGHT]",
        help="average percentile ranks within the group with those of your own column (repeatable; a negative weight "
        "where less is better)",
    )
    parser.add_argument(
        "--pairs", choices=PAIRINGS, default="best-worst", help="pairs of each group (default: best-worst)"
    )


def run(arguments: argparse.Namespace) -> int:
    fused = parse_weights(arguments.fuse)
    if not arguments.margin >= 0:
        raise ValueError(f"--margin must be zero or more, got {arguments.margin}.")
    first = Path(os.path.expanduser(arguments.songs[0]))
    is_table = len(arguments.songs) == 1 and get_table_suffix(first) != "" and first.is_file()
    with OutputLock(arguments.output):
        reports = list(read_reports(first) if is_table else score_songs(find_songs(arguments.songs), arguments))
        scored = [report for report in reports if not report.get("error")]
        if not scored:
            raise ValueError("there is no scored song to choose from.")
        candidates = build_candidates(scored, arguments.of_group)
        compute_keys = choose_key(candidates, arguments.by, arguments.model, arguments.revision, fused)
        options = {"num_best": arguments.best, "margin": arguments.margin, "floor": arguments.floor}
        choices = choose_best(candidates, compute_keys, **options)
        pairs = build_pairs(choices, pairing=arguments.pairs, margin=arguments.margin)
        write_outputs(Path(arguments.output), choices, pairs)
    print_lines(describe_choices(choices, pairs, num_failed=len(reports) - len(scored)))
    return 1 if len(scored) < len(reports) else 0


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """
    Read `COLUMN=WEIGHT`; the weight is 1 where none is given.

    Raises:
        `ValueError`: If a weight is not a finite number other than zero.
    """
    weights = {}
    for text in texts:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = float("nan")
        if not 0 < abs(weights[name]) < float("inf"):
            raise ValueError(f"--fuse {text}: a weight must be a number other than zero, such as {name}=-0.5.")
    return weights


def read_reports(path: Path) -> Iterator[dict[str, Any]]:
    """
    Yield the rows of a table; scores that are columns of their own are put where a report has them.

    Raises:
        `ValueError`: If a row holds neither a score nor an error.
    """
    names = [head["name"] for head in DEFAULT_HEADS]
    for row in iterate_rows(path):
        report = dict(row.values)
        scores = report.get("scores")
        if not isinstance(scores, Mapping):
            found = {name: report.get(name) for name in names if report.get(name) not in (None, "")}
            if not found and not report.get("error"):
                raise ValueError(
                    f"{row.location}: holds no score. Make a table of scores first: apex-music score SONGS --output "
                    "scores.jsonl"
                )
            report["scores"] = found
        yield report


def build_candidates(reports: Sequence[Mapping[str, Any]], group_column: str) -> list[Candidate]:
    """
    Take reports apart.

    Raises:
        `ValueError`: If a report has no name, group or score, or other scores than the first.
    """
    candidates = []
    expected = list(reports[0]["scores"])
    for number, report in enumerate(reports, start=1):
        song = next((str(report[name]) for name in SONG_COLUMNS if report.get(name) not in (None, "")), None)
        if song is None:
            raise ValueError(f"row {number} has no name: a column {', '.join(SONG_COLUMNS)} is needed.")
        if group_column in report:
            group = report[group_column]
        elif group_column == FOLDER:
            group = os.path.dirname(song) or "."
        else:
            columns = ", ".join(name for name in report if not isinstance(report[name], (Mapping, list)))
            raise ValueError(f"{song}: there is no column {group_column!r} to group by; there are {columns}.")
        if group in (None, ""):
            raise ValueError(f"{song}: the column {group_column!r} is empty.")
        if list(report["scores"]) != expected:
            raise ValueError(f"{song}: has the scores {list(report['scores'])}, but the first song has {expected}.")
        scores = {name: _read_score(song, name, value) for name, value in report["scores"].items()}
        candidates.append(Candidate(song, str(group), scores, report))
    return candidates


def _read_score(song: str, name: str, value: Any) -> float:
    number = parse_number(value)
    if number is None:
        raise ValueError(f"{song}: the score {name} is {value!r}, and a finite number is needed.")
    return float(number)


def choose_key(
    candidates: Sequence[Candidate],
    by: str | None,
    model: str | None,
    revision: str | None,
    fused: Mapping[str, float],
) -> Any:
    """Return what gives candidates their keys; a preference head serves only where all its scores are there."""
    names = list(candidates[0].scores)
    head: PreferenceHead | None = load_preference_head(model, revision=revision)
    if head is not None and not set(head.weights) <= set(names):
        head = None
    by = by or ("preference" if head is not None else "all")
    groups = find_groups({**candidates[0].report, "scores": candidates[0].scores})
    chosen = choose_scores(by, names, groups, has_head=head is not None)
    strength = head.compute_strength if head is not None and by == "preference" else None
    return build_key(chosen, fused, strength)


def write_outputs(folder: Path, choices: Sequence[Choice], pairs: Sequence[Mapping[str, Any]]) -> None:
    """Write what was chosen, the pairs, and the best tenth of all, a line each."""
    selected = [
        {"group": choice.group, "place": place, "key": key, "lead": choice.lead, **candidate.report}
        for choice in choices
        for place, (candidate, key) in enumerate(choice.chosen, start=1)
    ]
    top = [{"group": candidate.group, "key": key, **candidate.report} for candidate, key in take_top_share(choices)]
    tables = {"selected": selected, "pairs": pairs, "top_decile": top}
    texts = {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in rows) for name, rows in tables.items()}
    replace_texts(folder, texts)


def describe_choices(choices: Sequence[Choice], pairs: Sequence[Any], num_failed: int) -> str:
    """Return a table, one line a group, and what was not chosen and why."""
    rows = [
        [
            choice.group,
            ", ".join(candidate.song for candidate, _ in choice.chosen) or "(no clear lead)",
            "" if choice.lead is None else f"{choice.lead:.2f}",
            f"{len(choice.ranked)}",
        ]
        for choice in choices
    ]
    num_abstained = sum(not choice.chosen for choice in choices)
    num_refused = sum(choice.num_refused for choice in choices)
    lines = [
        format_table(["group", "chosen", "lead", "songs"], rows),
        f"{format_count(len(choices), 'group')}, {num_abstained} without a choice; "
        f"{format_count(len(pairs), 'pair')}; {format_count(num_refused, 'song')} below the floor, "
        f"{num_failed} not scored",
    ]
    return "\n".join(lines)
