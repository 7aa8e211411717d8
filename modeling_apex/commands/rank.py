"""`apex-music rank`: the songs from best to worst, with what each score says."""

import argparse

from modeling_apex.arena.preference import load_preference_head
from modeling_apex.arena.ranking import choose_scores, format_ranking, rank_reports
from modeling_apex.commands.options import add_scoring_arguments, load_scorer, positive_int, score_songs
from modeling_apex.corpus.song_files import find_songs
from modeling_apex.process_exit import print_lines

HELP = "sort songs from best to worst, with the reason per score"
DESCRIPTION = (
    "Score songs and sort them, best first. Beside each score is the place that the song would have by it alone."
)
EXAMPLES = ("takes/*.wav", "takes/ --by popularity --top 3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scoring_arguments(parser)
    parser.add_argument(
        "--by",
        metavar="SCORE",
        help="what to sort by: preference (the default where the model has a preference head), all (mean place over "
        "every score, the default elsewhere), popularity, aesthetics, or one score",
    )
    parser.add_argument("--top", type=positive_int, metavar="N", help="show only the best N")


def run(arguments: argparse.Namespace) -> int:
    songs = find_songs(arguments.songs)
    head = load_preference_head(arguments.model, revision=arguments.revision)
    scorer = load_scorer(arguments)
    if arguments.by:  # refused before the songs are scored
        groups = {each["name"]: each["group"] for each in scorer.model.config.heads}
        choose_scores(arguments.by, list(groups), groups, has_head=head is not None)
    reports = list(score_songs(songs, arguments, scorer=scorer))
    scored = [report for report in reports if "error" not in report]
    if scored:
        print_lines(format_ranking(rank_reports(scored, by=arguments.by, head=head)[: arguments.top]))
    return 1 if len(scored) < len(reports) else 0
