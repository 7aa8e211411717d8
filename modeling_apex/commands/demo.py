"""`apex-music demo`: the page of the Space, on this machine; the program is `spaces_demo.app`."""

import argparse

HELP = "serve the web page of the Space on this machine"
DESCRIPTION = (
    "Serve the page of the Space until Ctrl-C. Its settings are variables of the environment, as on a Space: "
    "APEX_MODEL (folders or Hub ids, by commas; default: apex-tiny), APEX_MAX_SECONDS, APEX_MAX_MB, APEX_DEVICE, ... "
    "Gradio reads GRADIO_SERVER_PORT and GRADIO_SERVER_NAME."
)
EXAMPLES = ("",)
WHEN_INTERRUPTED = "the uploads are deleted; the same command serves the page again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: a Space has no command line."""


def run(arguments: argparse.Namespace) -> int:
    from spaces_demo.app import main as serve

    return serve()
