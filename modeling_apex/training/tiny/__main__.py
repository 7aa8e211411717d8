"""`python -m modeling_apex.training.tiny`: train the embedded demonstration model anew."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from modeling_apex.process_exit import CommandParser, run_command
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.training.tiny.evaluation import find_missed_targets
from modeling_apex.training.tiny.making import COMMAND, make_model
from modeling_apex.training.tiny.recipe import TinyRecipe

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `python -m modeling_apex.training.tiny`."""
    recipe = TinyRecipe()
    parser = CommandParser(prog=COMMAND, description="Make apex-tiny, the embedded demonstration model.")
    parser.add_argument("--output", type=Path, default=EMBEDDED_MODEL, help="folder of the model (%(default)s)")
    parser.add_argument(
        "--songs", type=Path, default=Path("runs/tiny-songs"), help="where rendered songs are kept (%(default)s)"
    )
    parser.add_argument("--num-training-songs", type=int, default=recipe.num_training_songs, help="(%(default)s)")
    parser.add_argument("--num-epochs", type=int, default=recipe.num_epochs, help="(%(default)s)")
    parser.add_argument("--num-processes", type=int, help="processes that render; the number of cores by default")
    parser.add_argument("--num-threads", type=int, default=1, help="threads that train (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if the model misses a target, as its README then says."""

    def run(options: argparse.Namespace) -> int:
        return _run(build_parser().parse_args(arguments, options))

    resume = "the same command uses the songs again that were rendered"
    return run_command("error", run, words=arguments, when_interrupted=resume)


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(options.num_threads)
    recipe = TinyRecipe(num_training_songs=options.num_training_songs, num_epochs=options.num_epochs)
    with OutputLock(options.songs):
        results = make_model(recipe, options.songs, options.output, options.num_processes)
    missed = find_missed_targets(results)
    for sentence in missed:
        logger.warning("Missed: %s", sentence)
    logger.info("Wrote %s.", options.output)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
