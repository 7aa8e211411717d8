"""
The report of the arena experiment: `results.json`, `predictions.json` and `report.md`.

What comes in are the results of the experiment; what leaves are files. Tables are laid out as the paper's (AUC on all,
instrumental and vocal battles, then F1), and a paper's number stands in a column that says so.
"""

import json
from pathlib import Path
from typing import Any

from modeling_apex.arena import published_results
from modeling_apex.statistics.result_schema import RESULT_VERSION
from modeling_apex.storage.markdown import build_table, escape_markdown
from modeling_apex.storage.output_folder import replace_texts

EARLIER_VERSION = (
    "an earlier version wrote these results, without permutations with refitting and with intervals of single "
    "battles; run `apex-music arena` again"
)
_COLUMNS = (("AUC all", "all", "auc"), ("AUC instrumental", "instrumental", "auc"), ("AUC vocal", "vocal", "auc"),
            ("F1 of A wins, all", "all", "f1_of_a"), ("macro F1 all", "all", "f1"),
            ("accuracy all", "all", "accuracy"))  # fmt: skip
# The paper's F1 is that of "A wins".
_PUBLISHED_COLUMNS = ("auc_all", "auc_instrumental", "auc_vocal", "f1_all")


def save_results(results: dict[str, Any], directory: str | Path) -> list[Path]:
    """
    Write the results and the report.

    Args:
        results (`dict`): Results of `run_arena`.
        directory (`str` or `Path`): Folder to write into.

    Returns:
        `list[Path]`: `results.json`, `predictions.json` (the margin of every battle) and `report.md`.
    """
    protocols = {
        name: {key: value for key, value in found.items() if key != "margins"}
        for name, found in results["protocols"].items()
    }
    margins = {name: found.get("margins", {}) for name, found in results["protocols"].items()}
    contents = {
        "results.json": json.dumps({**results, "protocols": protocols}, indent=2, allow_nan=False) + "\n",
        "predictions.json": json.dumps(margins, allow_nan=False) + "\n",
        "report.md": build_report(results),
    }
    return replace_texts(Path(directory), contents)


def build_report(results: dict[str, Any]) -> str:
    """
    Build the Markdown report.

    Args:
        results (`dict`): Results of `run_arena`.

    Returns:
        `str`: Markdown.
    """
    if results.get("schema_version") != RESULT_VERSION:
        # Results of an earlier version are shown as far as they go, and say that they are.
        results = {**results, "resampled": None, "notes": [EARLIER_VERSION]}
    sections = [
        _build_opening(results),
        _build_direct_rules(results),
        _build_judges(results.get("judges")),
        *(_build_protocol(name, found, results) for name, found in results["protocols"].items()),
        _build_aesthetics_effect(results),
        *(_build_leaderboard(subset, board) for subset, board in results["human_leaderboards"].items() if board),
        *(_build_agreement(subset, board) for subset, board in results["leaderboards"].items() if board),
        _build_preference(results),
        build_anchors(results["anchors"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def format_interval(summary: dict[str, Any] | None, digits: int = 3) -> str:
    """Format an estimate with its interval, or a dash where it is not defined."""
    if not summary or summary["estimate"] is None:
        return "–"
    text = f"{summary['estimate']:z.{digits}f}"
    return text if summary["low"] is None else f"{text} [{summary['low']:z.{digits}f}, {summary['high']:z.{digits}f}]"


def describe_units(resampled: dict[str, Any] | None) -> str:
    """Say in words what was resampled, such as `120 prompts and 80 users`."""
    if not resampled:
        return "what is not stated"
    return " and ".join(f"{count} {name}s" for name, count in resampled["num_units"].items())


def _build_opening(results: dict[str, Any]) -> str:
    battles, options = results["battles"], results["options"]
    is_simulated = any(column["group"] == "truth" for column in results["scores"])
    facts = [
        *(["These battles are synthetic: votes called human below were drawn by a simulation."] * is_simulated),
        f"{battles['num_decisive']} decisive battles of {battles['num_systems']} systems: "
        f"{battles['num_won_by_a']} won by A, {battles['num_won_by_b']} by B. Among all {battles['num_used']} with a "
        f"vote, {battles['num_instrumental']} are instrumental, {battles['num_vocal']} vocal and "
        f"{battles['num_not_known_if_instrumental']} of unknown kind.",
        f"{battles['num_ties']} ties count on the leaderboards only; {battles['num_both_bad']} votes that "
        "both were bad are dropped.",
        f"A won {format_interval(results['share_won_by_a']['all'])} of the decisive battles.",
        f"Brackets are {options['interval_level']:.0%} intervals by {options['num_draws']} bootstrap draws of "
        f"{describe_units(results['resampled'])}, seed {options['seed']} (accuracy: Wilson's); of the logistic "
        f"regression and the baselines by {options.get('num_refits', 'none')}, each refitted. Macro F1 is the "
        "mean over both sides, so that exchanging A and B changes nothing; F1 of A wins is the paper's.",
        *(f"{note[0].upper()}{note[1:]}." for note in results["notes"]),
    ]
    return "\n".join(["# Arena experiment", "", f"**{results['conclusion']}**", "", *(f"- {fact}" for fact in facts)])


def _list_cells(found: dict[str, Any]) -> list[str]:
    return [format_interval(found.get(subset, {}).get(metric)) for _, subset, metric in _COLUMNS]


def _build_direct_rules(results: dict[str, Any]) -> str:
    if not results["direct_rules"]:
        return "## Direct rules\n\nNot available: the table has no scores."
    truths = {column["name"] for column in results["scores"] if column["group"] == "truth"}
    rows = []
    for name, found in results["direct_rules"].items():
        published = published_results.DIRECT_RULES.get(name)
        label = f"{name} (known truth of the simulation: the ceiling)" if name in truths else name
        label = escape_markdown(label)
        rows.append([label, *_list_cells(found), "–" if published is None else f"{published:.3f}"])
    header = ["the higher score wins", *(c[0] for c in _COLUMNS), f"AUC all, published ({published_results.SOURCE})"]
    note = (
        "The published rules let the lower score win; the published column is what those scores reach when read the "
        "right way round."
    )
    return f"## Direct rules\n\n{build_table(header, rows)}\n\n{note}"


def _build_judges(compared: dict[str, Any] | None) -> str:
    if not compared:
        return ""
    rows = [[escape_markdown(name), *_list_cells(found)] for name, found in compared["rules"].items()]
    pairs = [
        [escape_markdown(f"{pair['first']} minus {pair['second']}"), *_list_cells(pair["subsets"])]
        for pair in compared["differences"]
    ]
    columns = [column[0] for column in _COLUMNS]
    note = (
        f"{compared['num_battles']} decisive battles that every judge scored ({compared['num_left_out']} left out); "
        f"the higher score wins. Intervals draw {describe_units(compared['resampled'])}, the same for all, so that "
        "differences are paired: one whose interval contains zero may be chance."
    )
    standing = [
        escape_markdown(f"{pair['first']} and {pair['second']}")
        for pair in compared["differences"]
        if pair["subsets"]["all"]["accuracy"].get("survives_correction")
    ]
    if pairs:
        note += f" With Holm's correction over {len(pairs)} pairs, accuracy differs between: "
        note += f"{'; '.join(standing) or 'none'}."
    tables = [build_table(["judge", *columns], rows)]
    tables += [build_table(["difference", *columns], pairs)] if pairs else []
    return "\n\n".join(["## Judges side by side", *tables, note])


def _build_protocol(name: str, found: dict[str, Any], results: dict[str, Any]) -> str:
    title = f"## Protocol: {name.replace('_', ' ')}"
    if "unavailable" in found:
        return f"{title}\n\nNot available: {found['unavailable']}."
    # The paper's numbers come from random folds, so they stand beside that protocol only.
    is_published_protocol = name == "random_folds" and bool(found["classifiers"])
    header = ["predictor", "scores", *(c[0] for c in _COLUMNS)]
    if is_published_protocol:
        header += [f"{c[0]}, published ({published_results.SOURCE})" for c in _COLUMNS[:4]]
    rows = []
    for classifier, sets in found["classifiers"].items():
        for feature_set, measured in sets.items():
            row = [classifier, feature_set, *_list_cells(measured)]
            if is_published_protocol:
                published = published_results.CLASSIFIERS.get((classifier, feature_set), {})
                values = [published.get(column) for column in _PUBLISHED_COLUMNS]
                row += ["–" if value is None else f"{value:.3f}" for value in values]
            rows.append(row)
    filler = ["–"] * 4 if is_published_protocol else []
    for baseline, measured in found["baselines"].items():
        if "unavailable" in measured:
            rows.append(
                [f"baseline: {baseline}", f"not available: {measured['unavailable']}", *["–"] * len(_COLUMNS), *filler]
            )
        else:
            left_out = len(measured.get("battles_left_out", ()))
            note = f"{left_out} battles left out" if left_out else "–"
            rows.append([f"baseline: {baseline}", note, *_list_cells(measured), *filler])
    rows.append(["baseline: coin (range of luck)", "–", *_list_cells(results["coin"]), *filler])
    notes = [f"{found['num_folds']} folds."]
    if not found["is_symmetric"]:
        notes.append("Published recipe: these classifiers are not symmetric in A and B and can learn the position.")
    if name == "leave_one_system_out":
        notes.append("Every battle is judged twice, once with each of its systems left out of training.")
    if name == "within_system_pairs":
        notes.append("Battles are compared within a pair of systems only, so AUC is the only meaningful metric.")
    return f"{title}\n\n{build_table(header, rows)}\n\n{' '.join(notes)}"


def _build_aesthetics_effect(results: dict[str, Any]) -> str:
    effect = results["aesthetics_effect"]
    title = "## With minus without aesthetics"
    if "unavailable" in effect:
        return f"{title}\n\nNot available: {effect['unavailable']}."
    rows = [
        [
            row["protocol"],
            row["classifier"],
            format_interval(row),
            *(_format_number(row.get(name)) for name in ("null_mean", "excess", "p_value", "smallest_effect")),
            row.get("verdict", "not testable"),
        ]
        for row in effect["rows"]
    ]
    header = ["protocol", "classifier", "AUC difference (paired interval)", "noise columns bring", "over noise", "p",
              "smallest effect shown in 4 of 5", "verdict"]  # fmt: skip
    claim = "between songs of one system" if effect.get("claim") == "songs" else "between songs or systems"
    note = (
        f"p by up to {effect.get('num_permutations', 0)} permutations of all aesthetic scores together, each "
        f"refitted; the question is what aesthetics add {claim}. The primary row ({effect['primary']['protocol']}, "
        f"{effect['primary']['classifier']}) is judged alone, the others after Holm's correction."
    )
    reasons = dict.fromkeys(row["reason"] for row in effect["rows"] if row.get("verdict") == "not testable")
    untested = "".join(f"\n- not testable: {reason}." for reason in reasons)
    return f"{title}\n\n{build_table(header, rows)}\n\n{note}\n{untested}\n\n{results['conclusion']}"


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _build_leaderboard(subset: str, board: dict[str, Any]) -> str:
    rows = [
        [str(place), escape_markdown(entry["system"]), str(entry["num_votes"]), format_interval(entry["human"], 0)]
        for place, entry in enumerate(board["systems"], start=1)
    ]
    text = f"## Leaderboard by human votes: {subset}\n\n"
    text += build_table(["rank", "system", "votes", "arena score"], rows)
    if board["unlisted"]:
        listed = ", ".join(f"{escape_markdown(name)} ({votes})" for name, votes in board["unlisted"].items())
        text += f"\n\nUnder {board['minimum_votes']} votes, fitted but not listed: {listed}."
    for systems in board.get("unconnected", ()):
        listed = ", ".join(f"{escape_markdown(name)} ({votes})" for name, votes in systems.items())
        text += f"\n\nNot on this scale, since no chain of battles connects them with it: {listed}."
    return f"{text}\n\nIntervals draw {describe_units(board.get('resampled'))}."


def _build_agreement(subset: str, board: dict[str, Any]) -> str:
    if not board["rank_correlations"]:
        return ""
    rows = [[escape_markdown(name), format_interval(found)] for name, found in board["rank_correlations"].items()]
    table = build_table(["votes predicted by", "rank correlation with human"], rows)
    return (
        f"## Leaderboard by predicted votes: {subset}\n\n{table}\n\n{len(board['systems'])} systems with at least "
        f"{board['minimum_votes']} votes, {board['num_battles']} battles; people and predictors judge the same ones."
    )


def _build_preference(results: dict[str, Any]) -> str:
    head = results["preference_head"]
    if "unavailable" in head:
        return f"## Preference head\n\nNot available: {head['unavailable']}."
    training = head["training"]
    weights = ", ".join(f"{n} {w:+.3f}" for n, w in training["weights_per_standard_deviation"].items())
    return (
        f"## Preference head\n\nFitted on {training['num_battles']} battles. {_describe_held_out(training)}"
        f"Temperature {head['temperature']:.2f}, position bias {head['position_bias']:+.3f} logits for A. "
        f"Weights in logits per standard deviation: {weights}."
    )


def _describe_held_out(training: dict[str, Any]) -> str:
    text = ""
    for protocol, found in training.get("held_out", {}).items():
        name = protocol.replace("_", " ")
        if "unavailable" in found:
            text += f"{name.capitalize()}: not available, {found['unavailable']}. "
            continue
        error = found["calibration_error"]
        text += (
            f"On battles held out by {name}: AUC {format_interval(found['auc'])}, expected calibration error "
            f"{format_interval(error)}, where a perfectly calibrated head would show "
            f"{error['expected_if_calibrated']:.3f}. "
        )
        if "accuracy_difference" in found:
            text += (
                f"Accuracy {format_interval(found['accuracy'])}; a fit whose weights may be below zero reaches "
                f"{format_interval(found['accuracy_without_bounds'])}: the bounds change it by "
                f"{format_interval(found['accuracy_difference'])}. "
            )
    return text


def build_anchors(anchors: dict[str, Any]) -> str:
    """Build the section on anchor battles, in Markdown."""
    title = "## Anchor battles of a new system"
    if "unavailable" in anchors:
        return f"{title}\n\nNot available: {anchors['unavailable']}."
    if not anchors["gains"]:
        return f"{title}\n\nNot available: no system has enough battles."
    names = ("accuracy", "accuracy_gain", "log_loss", "log_loss_gain")
    rows = [[str(row["num_anchors"]), *(format_interval(row[name]) for name in names)] for row in anchors["gains"]]
    drawn = describe_units(anchors.get("resampled"))
    note = f"Means over {len(anchors['per_system'])} systems, each left out of training; intervals draw {drawn}."
    return f"{title}\n\n{build_table(['anchors', *(n.replace('_', ' ') for n in names)], rows)}\n\n{note}"
