"""
Small pieces of HTML that every view is made of. All text is escaped here, where it becomes markup.

Downloads travel inside the page as data links: no file is written on the server, so there is none to delete.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

__all__ = ["build_bar", "build_download", "build_downloads", "build_notice", "build_warnings", "escape"]


def build_bar(share: float, label: str, kind: str = "") -> str:
    """Build a bar, filled by a share from 0 to 1 (clipped); a screen reader says its label in place of the picture."""
    percent = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<span class="apex-bar {escape(kind)}" role="img" aria-label="{escape(label)}">'
        f'<span style="width:{percent:.1f}%"></span></span>'
    )


def build_notice(text: str, kind: str = "note") -> str:
    """Build a paragraph that stands out: `note`, `warning` or `empty`."""
    return f'<p class="apex-notice apex-{kind}">{escape(text)}</p>'


def build_warnings(reports: Iterable[Mapping[str, Any]]) -> str:
    """Build one notice for everything that was odd about the songs; empty if nothing was."""
    warnings = [f"{report['song']}: {warning}" for report in reports for warning in report.get("warnings", ())]
    return "".join(build_notice(warning, "warning") for warning in warnings)


def build_download(label: str, file_name: str, content: str, media_type: str) -> str:
    """Build a link that saves `content` as a file."""
    data = base64.b64encode(content.encode()).decode()
    return (
        f'<a class="apex-button" download="{escape(file_name)}" '
        f'href="data:{media_type};charset=utf-8;base64,{data}">{escape(label)}</a>'
    )


def build_downloads(stem: str, report: Any, csv_text: str) -> str:
    """Build the pair of links that every tab ends with: JSON with everything, CSV with one row a song."""
    json_text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    return (
        '<div class="apex-downloads">'
        + build_download("Download CSV", f"{stem}.csv", csv_text, "text/csv")
        + build_download("Download JSON", f"{stem}.json", json_text, "application/json")
        + "</div>"
    )
