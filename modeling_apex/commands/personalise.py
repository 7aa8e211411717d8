"""`apex-music personalise`: a head of one listener's own, from some 150 ratings or votes."""

import argparse
import os
import sys
from typing import Any

from modeling_apex.inference.report_apex import escape_controls, format_count, format_table
from modeling_apex.process_exit import print_lines

HELP = "fit a score of your own taste to about 150 ratings or votes"
DESCRIPTION = (
    "Fit a head to what one listener says of songs: ratings (columns song and rating), or pairs (song_a, song_b and "
    "preference; or chosen and rejected). The new model has this score beside its others, and loads wherever they "
    "do. Prints how well the head predicts judgements that it has not seen, and how well the other scores predict "
    "them."
)
EXAMPLES = (
    "ratings.csv --songs my-songs/ --output mine",
    "pairs.jsonl --model amaai-lab/apex --embeddings embeddings/mine --output mine",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("judgements", metavar="RATINGS_OR_PAIRS", help="table of what you say of songs")
    parser.add_argument("--model", metavar="M", help="folder or Hub id (default: the embedded demonstration model)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", metavar="DIR", help="what `apex-music embed` wrote, with the same encoder")
    source.add_argument(
        "--songs", metavar="DIR", help="the songs themselves; their embeddings are kept in OUTPUT-embeddings"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument("--head", default="personal", metavar="NAME", help="what to call the score (personal)")
    parser.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="lowest and highest rating that there is (default: those given)",
    )
    parser.add_argument("--num-draws", type=int, default=1000, metavar="N", help="bootstrap draws (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of folds and draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.corpus.embed import embed_songs
    from modeling_apex.model_names import find_model
    from modeling_apex.personal.judgements import read_judgements
    from modeling_apex.personal.making import personalise
    from modeling_apex.storage.output_folder import check_new_folder

    output = os.path.expanduser(arguments.output)
    check_new_folder(output)  # before an hour is spent
    read_judgements(arguments.judgements)
    embeddings, failures = arguments.embeddings, []
    if embeddings is None:
        embeddings = f"{output.rstrip(os.sep)}-embeddings"
        summary = embed_songs(
            arguments.songs, embeddings, find_model(arguments.model), show_progress=sys.stderr.isatty()
        )
        failures = summary.failures
        for failure in failures:
            words = f"{failure['id']}: {failure['error']}"
            print_lines(f"not embedded: {escape_controls(words)}", file=sys.stderr)
    results = personalise(
        arguments.judgements,
        embeddings,
        output,
        model=arguments.model,
        head_name=arguments.head,
        score_range=None if arguments.range is None else tuple(arguments.range),
        num_draws=arguments.num_draws,
        seed=arguments.seed,
    )
    print_lines(format_results(results))
    print_lines(escape_controls(f"written: {output}"))
    return 1 if failures else 0


def format_results(results: dict[str, Any]) -> str:
    """Return what the personal head and the other scores reach as a table, and what it means."""
    from modeling_apex.statistics.bootstrap import format_summary

    head = results["head"]
    entries = {head["name"]: (results["personal"], None)}
    entries |= {name: (found, results["differences"][name]) for name, found in results["generic"].items()}
    rows = [
        [name, format_summary(found), "" if lead is None else format_summary(lead)]
        for name, (found, lead) in entries.items()
    ]
    metric = {"spearman": "rank correlation", "accuracy": "pairs ordered correctly"}[results["metric"]]
    folds = results["folds"]
    left_out = ", ".join(f"{count} {reason}" for reason, count in results["num_left_out"].items() if count)
    notes = [
        f"{format_count(results['num_judgements'], 'judgement')} of {format_count(results['num_songs'], 'song')}; "
        f"{folds['num_folds']} folds by {folds['of']}" + (f"; left out: {left_out}" if left_out else ""),
        f"{head['name']} runs from {head['minimum']:g} to {head['maximum']:g} ({head['scale']})",
        _describe_reference(results["reference"]),
        results["conclusion"],
    ]
    return "\n".join([format_table(["score", metric, "personal leads by"], rows), *notes])


def _describe_reference(reference: dict[str, Any]) -> str:
    """Say among which songs all scores are ranked now, the general ones too, which knew of others before."""
    words = f"percentiles of all scores are ranks among {reference['name']}"
    words += f", no longer among {reference['replaces']}" if reference["replaces"] else ""
    return escape_controls(words)  # a model from elsewhere says what it was ranked among
