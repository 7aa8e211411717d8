"""
Where the page becomes HTML: one environment for all templates, which escapes whatever it is given.

What comes in is the name of a file of `templates/` and values; what leaves is HTML. Nothing else in this package
writes a tag around a value. Downloads travel inside the page as data links: no file is written on the server, so there
is none to delete.
"""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spaces_demo.wording import (
    format_chance,
    format_count,
    format_group,
    format_length,
    format_meaning,
    format_model,
    format_number,
    format_time,
    format_title,
)

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(
    as_chance=format_chance,
    as_count=format_count,
    as_group=format_group,
    as_length=format_length,
    as_meaning=format_meaning,
    as_model=format_model,
    as_number=format_number,
    as_time=format_time,
    as_title=format_title,
)
# The same results asked for again are results all the same: Gradio would not draw what does not differ.
ENVIRONMENT.globals["next_run"] = itertools.count().__next__


def render(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped."""
    return ENVIRONMENT.get_template(template).render(values)


def render_downloads(
    stem: str, report: Any, csv_text: str, *, picture: bytes | None = None, picture_text: str = ""
) -> str:
    """Render the links that every tab ends with: JSON with everything, CSV with one row per song, and a PNG if any."""
    json_text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    files = [
        (kind, f"{stem}.{kind.lower()}", media_type, base64.b64encode(text.encode()).decode())
        for kind, media_type, text in (("CSV", "text/csv", csv_text), ("JSON", "application/json", json_text))
    ]
    picture_data = None if picture is None else base64.b64encode(picture).decode()
    return render("downloads.html", files=files, stem=stem, picture=picture_data, picture_text=picture_text)
