"""
What the owner of a Space may choose, read from environment variables.

What comes in is the environment; what leaves is one checked [`SpaceSettings`]. Each field names its variable, so that
the README's table, the error messages and this file cannot drift apart.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class SpaceSettings:
    """
    Hold the settings of a Space.

    Args:
        models (`tuple[str, ...]`):
            Hub ids or folders, the first one shown first. Empty for the embedded demonstration model.
        max_seconds (`float`, defaults to 600):
            Longest song, in seconds.
        max_megabytes (`float`, defaults to 50):
            Largest upload, in megabytes (1024 x 1024 bytes).
        max_songs (`int`, defaults to 20):
            Most songs in one ranking.
        queue_size (`int`, defaults to 16):
            Requests that may wait; further ones are turned away.
        concurrency (`int`, defaults to 1):
            Requests that are scored at once.
        keep_minutes (`float`, defaults to 30):
            After how long an upload is deleted even if its page stays open.
        device (`str`, *optional*):
            `cpu`, `cuda`, ...; by default an accelerator if there is one.
        total_megabytes (`float`, defaults to 2000):
            What all uploads together may take, in megabytes; further ones are turned away.

    Raises:
        `ValueError`: If a number is not positive and finite, or all uploads may take less than one.
    """

    models: tuple[str, ...] = field(default=(), metadata={"variable": "APEX_MODEL"})
    max_seconds: float = field(default=600.0, metadata={"variable": "APEX_MAX_SECONDS"})
    max_megabytes: float = field(default=50.0, metadata={"variable": "APEX_MAX_MB"})
    max_songs: int = field(default=20, metadata={"variable": "APEX_MAX_SONGS"})
    queue_size: int = field(default=16, metadata={"variable": "APEX_QUEUE"})
    concurrency: int = field(default=1, metadata={"variable": "APEX_CONCURRENCY"})
    keep_minutes: float = field(default=30.0, metadata={"variable": "APEX_KEEP_MINUTES"})
    device: str | None = field(default=None, metadata={"variable": "APEX_DEVICE"})
    total_megabytes: float = field(default=2000.0, metadata={"variable": "APEX_TOTAL_MB"})

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, (int, float)) and not 0 < value < math.inf:
                raise ValueError(f"{setting.metadata['variable']} must be positive and finite, got {value:g}.")
        if self.total_megabytes < self.max_megabytes + 1:
            raise ValueError(
                f"APEX_TOTAL_MB is {self.total_megabytes:g}, but one upload may have {self.max_megabytes:g} "
                "(APEX_MAX_MB). Set it to at least 1 more than that."
            )

    @property
    def max_bytes(self) -> int:
        """Largest upload in bytes; derived, never stored."""
        return round(self.max_megabytes * 1024**2)

    @property
    def max_total_bytes(self) -> int:
        """What all uploads may take, in bytes; derived, never stored."""
        return round(self.total_megabytes * 1024**2)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "SpaceSettings":
        """
        Read the settings.

        Args:
            environment (`Mapping[str, str]`, *optional*):
                Defaults to the environment of the process. Empty variables count as not set.

        Returns:
            `SpaceSettings`: What is set, and defaults for the rest.

        Raises:
            `ValueError`: If a variable does not hold what its setting needs.
        """
        environment = os.environ if environment is None else environment
        chosen: dict[str, Any] = {}
        for setting in fields(cls):
            variable = setting.metadata["variable"]
            text = environment.get(variable, "").strip()
            if text:
                chosen[setting.name] = _parse_setting(variable, text, setting.default)
        return cls(**chosen)


def _parse_setting(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if default is None:
        return text
    try:
        return type(default)(text)
    except ValueError as error:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{variable} must be {kind}, got {text!r}.") from error
