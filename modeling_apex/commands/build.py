"""`apex-music build`: tables, audio and votes to datasets; the program is `datasets_scripts.build`."""

import argparse

HELP = "build a dataset from tables and audio, or a synthetic world"
WHEN_INTERRUPTED = "run the same command again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from datasets_scripts.build_arguments import add_arguments as declare

    declare(parser)


def run(arguments: argparse.Namespace) -> int:
    from datasets_scripts.build import run as build

    return build(arguments)
