"""`apex-music publish`: a model or a dataset to the Hub; the program is `hub_card.publish`."""

import argparse

HELP = "publish a model or a dataset on the Hub: checked, as one commit, read back"
WHEN_INTERRUPTED = "a commit is all or nothing: run the same command again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hub_card.publish import add_arguments as declare

    declare(parser)


def run(arguments: argparse.Namespace) -> int:
    from hub_card.publish import run as publish

    return publish(arguments)
