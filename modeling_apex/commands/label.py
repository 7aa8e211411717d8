"""`apex-music label`: label a corpus with the scores of a teacher model (pseudo-labels)."""

import argparse
from pathlib import Path
from typing import Any

from modeling_apex.commands.options import (
    add_computing_arguments,
    add_journal_arguments,
    add_list_argument,
    add_model_arguments,
    add_process_argument,
    add_shard_argument,
    build_audio_options,
    build_settings,
    list_journal_options,
    list_names,
    load_scorer,
    name_options,
    open_embedded_songs,
    place_output,
    refuse_audio_options,
    say_how_many_are_done,
    say_what_came_of_it,
    share_out,
    take_share,
)
from modeling_apex.commands.progress import follow_reports
from modeling_apex.corpus.score_journal import ScoreJournal

HELP = "label a corpus with the scores of a teacher model (pseudo-labels)"
DESCRIPTION = (
    "Score every song of a corpus by a model, for another to learn from: files, folders and URLs; one table, built "
    "dataset, folder of audio or Hub dataset, whose ids are kept; one folder of `apex-music embed`; or one of `score "
    "--backend ray`, whose scores become labels as they are. The output has "
    "one row per song, with the scores, the teacher, the hash of its weights and the day, and is what `build training "
    "--labels` takes. A song that fails has its reason in the row and no labels; the exit status is then 1. An "
    "interrupted run is resumed by the same command."
)
EXAMPLES = (
    "audio/ --teacher songeval --output labels.parquet",
    "datasets/suno --teacher amaai-lab/apex --output labels.parquet",
    "embeddings/suno --teacher runs/large/best --output labels.parquet",
    "scores-of-a-cluster --teacher songeval --output labels.parquet",
)
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "songs", nargs="*", metavar="SONG", help="file, folder, pattern or URL; or one table or dataset"
    )
    add_list_argument(parser)
    add_shard_argument(parser)
    parser.add_argument(
        "--teacher", dest="model", required=True, metavar="M", help="folder or Hub id of the model that labels"
    )
    add_model_arguments(parser)
    add_computing_arguments(parser)
    add_process_argument(parser)
    add_journal_arguments(parser, "the table of labels", is_required=True)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.corpus.cluster_scores import ClusterScores, find_cluster_scores
    from modeling_apex.corpus.embedding_manifest import find_embeddings
    from modeling_apex.corpus.labelling import (
        build_label_row,
        describe_teacher,
        list_label_columns,
        refuse_teacher_without_labels,
    )
    from modeling_apex.corpus.song_input import SourceSongs
    from modeling_apex.corpus.song_source import open_songs

    names = list_names(arguments)
    scores = find_cluster_scores(names)
    folder = scores or find_embeddings(names)
    if scores:
        _refuse_journal_options(scores, arguments)
    share = place_output(arguments, "labels", folder)
    songs: Any = None
    if folder is None:
        source = open_songs(names, id_column=arguments.id_column, audio_column=arguments.audio_column)
        songs = SourceSongs(source)
    else:
        refuse_audio_options(arguments, folder)
    songs = take_share(songs, share, arguments)
    scorer = load_scorer(arguments)
    refuse_teacher_without_labels(scorer)
    teacher, config = describe_teacher(scorer), scorer.model.config
    embedded = None
    options: dict[str, Any] = {"tail": arguments.tail}
    if scores:
        songs = ClusterScores(scores, config, {"weights_sha256": teacher.teacher_sha256, "tail": arguments.tail})
    elif folder is None:
        options = {**build_audio_options(arguments), "rereads": arguments.recheck}
    else:
        songs = embedded = open_embedded_songs(folder, scorer)
    with ScoreJournal(
        arguments.output,
        {**build_settings(arguments, scorer, embedded), "is_of_labels": True},
        columns=list_label_columns(config),
        lay_out=lambda report: build_label_row(report, config, teacher),
        has_ids=True,
        # Of scores it is not known which audio they are of, so that nothing could be appended to them.
        **{**list_journal_options(arguments), "is_recorded": scores is None},
    ) as journal:
        scorer = share_out(scorer, arguments)  # the one that is there is let go before others are loaded
        reports = songs.score(scorer, journal, return_percentiles=False, **options)
        for _ in follow_reports(reports, len(songs.ids), num_done=say_how_many_are_done(journal, songs.ids)):
            pass  # each is in the journal
        errors = journal.finish(songs.ids)
    return say_what_came_of_it(arguments.output, errors, "labelled")


def _refuse_journal_options(scores: Path, arguments: argparse.Namespace) -> None:
    """Refuse what goes on with an output or shares it out, where nothing is scored."""
    if wrong := [name for name in ("append", "retry_failures", "shard") if getattr(arguments, name)]:
        raise ValueError(f"{scores}: holds scores, of which labels are made at once: leave {name_options(wrong)} out.")
