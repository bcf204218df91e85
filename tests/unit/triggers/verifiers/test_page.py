"""The page about verifiers lists the presets that there are, as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netscript_triggers.verifiers.presets import PRESETS

PAGE = Path(__file__).parents[4] / "docs" / "verifiers.md"
# DocuSign numbers its headers, up to a hundred.
_SHOWN = 3


def row_of(name: str, verifier: Any) -> str:
    """Return a preset's line of the table."""
    headers = sorted(verifier.private_headers)
    shown = ", ".join(f"`{header}`" for header in headers[:_SHOWN])
    more = " …" if len(headers) > _SHOWN else ""
    signs_time, tolerance = (
        getattr(verifier, "signs_time", False),
        getattr(verifier, "tolerance", None),
    )
    time = "-" if not signs_time else f"{tolerance:g} s" if tolerance else "any"
    url = "yes" if getattr(verifier, "needs_url", False) else "-"
    asks = ", ".join(sorted(getattr(verifier, "handshake_methods", ()))) or "-"
    return f"| `{name}` | {shown or 'the body'}{more} | {time} | {url} | {asks} |"


def test_every_preset_has_its_line_and_no_other_does() -> None:
    lines = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    assert lines == [row_of(name, PRESETS[name]) for name in sorted(PRESETS)]
