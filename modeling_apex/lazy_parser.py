"""A parser of a command among many: what it needs is imported when a command line comes to it, and not before."""

from collections.abc import Callable
from typing import Any

from modeling_apex.process_exit import CommandParser


class LazyParser(CommandParser):
    """
    Declare the arguments of a command when they are first asked for.

    Args:
        declare (`Callable[[LazyParser], None]`):
            Adds the arguments and describes the command; called once.
        options:
            As for `argparse.ArgumentParser`.
    """

    def __init__(self, *, declare: "Callable[[LazyParser], None]", **options: Any):
        super().__init__(**options)
        self._declare: Callable[[LazyParser], None] | None = declare

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        self.declare()
        return super().parse_known_args(*arguments, **options)

    def format_help(self) -> str:
        self.declare()
        return super().format_help()

    def declare(self) -> None:
        """Declare the arguments, if that was not done before."""
        declare, self._declare = self._declare, None
        if declare is not None:
            declare(self)
