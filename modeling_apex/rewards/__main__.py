"""
Serve rewards by HTTP, in the protocol of verl-omni.

    python -m modeling_apex.rewards [MODEL] [--score musicality] [--port 8000]

It listens on this machine alone unless told otherwise: whoever reaches it can make it compute.
"""

import argparse
import sys
from collections.abc import Sequence

from modeling_apex.process_exit import CommandParser, print_lines, run_command
from modeling_apex.rewards.adapters.verl_omni import load_reward
from modeling_apex.rewards.adapters.verl_omni_server import build_server


def build_parser() -> CommandParser:
    """Build the parser of the command."""
    parser = CommandParser(
        prog="python -m modeling_apex.rewards", description="Serve rewards by HTTP, in the protocol of verl-omni."
    )
    parser.add_argument("model", nargs="?", help="folder or Hub id (default: the embedded demonstration model)")
    parser.add_argument("--score", default="musicality", help="the score that is the reward (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""

    def run(arguments: argparse.Namespace) -> int:
        given = build_parser().parse_args(words, arguments)
        load_reward(given.model, given.score)  # refused now rather than at the first request
        with build_server(given.host, given.port, model=given.model, score=given.score) as server:
            print_lines(f"serving on http://{given.host}:{server.server_address[1]}/")
            sys.stdout.flush()
            server.serve_forever()
        return 0

    return run_command("rewards", run, words=words, when_interrupted="the server is closed")


if __name__ == "__main__":
    sys.exit(main())
