"""
`apex-music card`, or `python -m hub_card.build_card`: result files to a card.

Writes the `README.md` of a model, or of a dataset that `datasets_scripts.build` made. Nothing is typed by hand: a fact
that no file has stops the build with the name of the file and the field.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hub_card.card_checks import CARD_NAME, find_card_problems
from hub_card.dataset_card import render_dataset_card
from hub_card.model_card import render_model_card
from hub_card.model_facts import ARENA_NAME, ROBUSTNESS_FOLDER, build_model_facts, find_arena, find_robustness
from modeling_apex.process_exit import CommandParser, print_lines, run_command
from modeling_apex.storage.links import refuse_links_out_of
from modeling_apex.storage.output_folder import replace_file, replace_text

PLOT_SUFFIX = ".png"


def add_card_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where a card's facts come from; building and publishing share it."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="folder of a model")
    source.add_argument("--dataset", metavar="DIR", help="folder that `apex-music build` finished")
    parser.add_argument("--results", metavar="FILE", help="its evaluation (default: results.json beside the model)")
    parser.add_argument(
        "--facts", metavar="FILE", help="JSON of facts that are not measured (default: facts.json there)"
    )
    parser.add_argument("--arena", metavar="DIR", help="folder that `apex-music arena` wrote (default: arena/ there)")
    parser.add_argument(
        "--robustness", metavar="DIR", help="folder that `apex-music robustness` wrote (default: robustness/ there)"
    )
    parser.add_argument("--no-arena-because", metavar="TEXT", help="why there are no results on battles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and declare its arguments."""
    parser.description = (
        "Render the card of a model or a dataset from its result files. A missing fact stops the build."
    )
    parser.epilog = (
        "examples:\n"
        "  %(prog)s --model runs/best --arena runs/arena --repo you/apex\n"
        '  %(prog)s --model runs/best --no-arena-because "no battles available" --output card/\n'
        "  %(prog)s --dataset data/songeval"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_card_arguments(parser)
    parser.add_argument("--repo", metavar="ID", help="the Hub repository that the card is for: owner/name")
    parser.add_argument("--output", metavar="DIR", help="folder for README.md and plots (default: the folder itself)")


def run(arguments: argparse.Namespace) -> int:
    """Write the card that the arguments describe, and print its path; return the exit status."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loading weights: it takes a second
    output = arguments.output or arguments.model or arguments.dataset
    print_lines(write_card(arguments, output, repo_id=arguments.repo))
    return 0


def write_card(arguments: argparse.Namespace, output: str | os.PathLike, *, repo_id: str | None) -> Path:
    """
    Write a card and the pictures that it shows, and return the card's path.

    Args:
        arguments (`argparse.Namespace`):
            What [`add_card_arguments`] declares.
        output (`str` or `os.PathLike`):
            Folder for them.
        repo_id (`str`, *optional*):
            The Hub repository that the card is for.

    Raises:
        `ValueError`: If a fact is missing, or the rendered card has a problem.
        `FileNotFoundError`: If a named file is not there.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links_out_of(folder)
    repo_type = "dataset" if arguments.dataset else "model"
    if arguments.dataset:
        unused = [
            name
            for name in ("results", "arena", "robustness", "no_arena_because", "facts")
            if getattr(arguments, name)
        ]
        if unused:
            raise ValueError(
                f"--{unused[0].replace('_', '-')} is about models; the card of a dataset does not use it."
            )
        text = render_dataset_card(arguments.dataset, repo_id=repo_id)
    else:
        arena = find_arena(arguments.model, arguments.arena)
        robustness = find_robustness(arguments.model, arguments.robustness)
        facts = build_model_facts(
            arguments.model,
            results=arguments.results,
            facts=arguments.facts,
            arena=arguments.arena,
            no_arena_because=arguments.no_arena_because,
            robustness=robustness,
            plots=_copy_plots(arena, folder / ARENA_NAME),
            robustness_plots=_copy_plots(robustness, folder / ROBUSTNESS_FOLDER),
            repo_id=repo_id,
        )
        text = render_model_card(facts)
    path = folder / CARD_NAME
    if problems := find_card_problems(text, folder, repo_type=repo_type):
        raise ValueError(f"{path}: not written: " + "; ".join(problems))
    replace_text(path, text)
    return path


def _copy_plots(source: Path | None, output: Path) -> list[str]:
    """Copy the pictures of a result, if there is one, beside the card; return their paths as the card links them."""
    copied = []
    for path in sorted(source.glob(f"*{PLOT_SUFFIX}")) if source is not None else ():
        target = output / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.resolve() != path.resolve():
            with replace_file(target) as file:
                file.write(path.read_bytes())
        copied.append(f"{output.name}/{path.name}")
    return copied


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = CommandParser(prog="python -m hub_card.build_card")
    add_arguments(parser)
    return run_command(
        "build_card",
        lambda arguments: run(parser.parse_args(words, arguments)),
        words=words,
        when_interrupted="run the same command again",
    )


if __name__ == "__main__":
    sys.exit(main())
