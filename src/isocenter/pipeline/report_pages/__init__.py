"""The pages of reports and comparisons: their templates, style and script, and the geometry of its charts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from pydantic import JsonValue

ROOM = Path(__file__).parent


def render(context: Mapping[str, Any], page: str = "report") -> str:
    """A page (`report`, `comparison`) as one HTML file that fetches nothing; every value is escaped.

    The page's own policy lets a browser run only the script that was written here, so that markup in a
    case's name stays words even if an escape were forgotten.
    """
    house = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOM),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    house.filters |= {"figure": figure, "plain": plain}
    script = (ROOM / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    template = house.get_template(f"{page}.html.jinja")
    return template.render(**context, script=Markup(script), script_digest=digest)


def plain(value: JsonValue) -> str:
    """A value of a record as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(plain(inner) for inner in value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point, fewer for large ones; a dash where undefined."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        digits = 0
    elif abs(value) >= 10:
        digits = 1
    return f"{value:,.{digits}f}".replace("-", "−")
