"""`apex-music build`: tables, audio and votes to datasets; the program is `datasets_scripts.build`."""

import argparse

HELP = "build a dataset from tables and audio, or a synthetic world"
WHEN_INTERRUPTED = "the same command goes on where this one stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from datasets_scripts.build_arguments import add_arguments as declare

    declare(parser)


def run(arguments: argparse.Namespace) -> int:
    from datasets_scripts.build import run as build

    return build(arguments)
