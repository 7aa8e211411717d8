"""`apex-music card`: result files to the card of a model or a dataset; the program is `hub_card.build_card`."""

import argparse

HELP = "write the card of a model or a dataset from its result files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hub_card.build_card import add_arguments as declare

    declare(parser)


def run(arguments: argparse.Namespace) -> int:
    from hub_card.build_card import run as build_card

    return build_card(arguments)
