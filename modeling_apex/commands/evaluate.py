"""`apex-music evaluate`: a model's results on a labelled dataset, as results.json and as a table."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modeling_apex.commands.training_options import add_label_arguments
from modeling_apex.process_exit import print_lines

HELP = "measure errors and correlations on labelled songs, beside trivial baselines"
DESCRIPTION = (
    "Evaluate a model on stored embeddings: MSE, MAE, Pearson and Spearman per score with bootstrap intervals, per "
    "split and per platform, beside always predicting the mean or median of the training labels. A "
    "spectrogram-fusion model is evaluated on a dataset of songs, with F1, precision, recall and AUC of predicted "
    "hits at its threshold, beside predicting the majority class."
)
EXAMPLES = ("embeddings/suno --model runs/first/best --output results.json", "data/tracks --model runs/fusion/best")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="folder written by apex-music embed; for a spectrogram-fusion model a dataset"
    )
    parser.add_argument("--model", metavar="M", required=True, help="folder or Hub id of the model")
    parser.add_argument("--output", metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--split", action="append", metavar="S", help="split to use, repeatable (default: all but train)"
    )
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    parser.add_argument(
        "--target-column", default="popularity", metavar="C", help="spectrogram-fusion: what to compare with"
    )
    add_label_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from modeling_apex.loading import load_model
    from modeling_apex.storage.output_folder import save_json
    from modeling_apex.storage.output_lock import OutputLock
    from modeling_apex.training.evaluate import evaluate_model, format_results
    from modeling_apex.training.fusion.evaluation import evaluate_fusion_model, format_fusion_results

    with ExitStack() as stack:
        if arguments.output:
            stack.enter_context(OutputLock(arguments.output, is_file=True))
        model = load_model(arguments.model)
        options: dict[str, Any] = {"splits": arguments.split, "num_draws": arguments.draws}
        if model.config.model_type == "spectrogram-fusion":
            if arguments.songs:
                raise ValueError(
                    "--songs names where labels of embeddings come from; here DATA has them: leave it out."
                )
            options["target_column"] = arguments.target_column
            results = evaluate_fusion_model(model, arguments.data, **options)
            print_lines(format_fusion_results(results))
        else:
            options |= {"songs": arguments.songs, "rereads": arguments.recheck}
            results = evaluate_model(model, arguments.data, **options)
            print_lines(format_results(results))
        if arguments.output:
            save_json(Path(arguments.output), results)
    return 1 if results.get("failures") else 0
