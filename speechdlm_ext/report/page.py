"""A page in one file: style and script within it, nothing from a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("player.js", "dialogues.js", "copy.js")


@dataclass(frozen=True)
class Section:
    """A section of a page; ``name`` is its anchor, ``lead`` plain text under its title, ``body`` HTML."""

    name: str
    title: str
    body: str
    lead: str = ""


def render_page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The whole page.

    Args:
        title: plain text, also of the browser's tab.
        lead: plain text under the title.
        sections: in order; they are also the page's navigation.

    Returns:
        HTML that opens from disk, in light and dark, at any width.
    """
    sections = list(sections)
    names = [(section.name, section.title) for section in sections]
    return writable(page_start(title, lead, names) + "".join(map(render_section, sections)) + page_end())


def page_start(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """The page up to its first section, for pages that are written piece by piece; ``sections``: anchors and titles."""
    links = "".join(f'<a href="#{escape(name)}">{escape(text)}</a>' for name, text in sections)
    style = (_ASSETS / "report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">Skip to the content</a>\n<header><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p><nav aria-label="Sections">{links}</nav>'
        '<noscript><p class="note">The players and lists of this page need JavaScript.</p></noscript></header>\n'
        '<main id="main">'
    )


def page_end() -> str:
    """The end of the page, with the scripts of ``assets``."""
    code = "".join(f"<script>\n{(_ASSETS / name).read_text(encoding='utf-8')}</script>\n" for name in _SCRIPTS)
    return f"</main>\n{code}</body>\n</html>\n"


def render_section(section: Section) -> str:
    """A section with its heading."""
    return section_start(section) + section.body + "</section>\n"


def section_start(section: Section) -> str:
    """The beginning of a section, up to its body; ``</section>`` ends it."""
    name = escape(section.name)
    lead = f'<p class="lead">{escape(section.lead)}</p>' if section.lead else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(section.title)}</h2>{lead}'
    )


def writable(text: str) -> str:
    """Text that can be written: names of files may hold bytes that are no characters, here question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def json_script(value: Any, name: str = "") -> str:
    """JSON values as an inert script element; whatever their strings hold, they cannot end it."""
    text = writable(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    attribute = f' id="{escape(name)}"' if name else ""
    return f'<script type="application/json"{attribute}>{text}</script>'


def table(head: list[str], rows: Iterable[list[str]], stacked: bool = False) -> str:
    """A table of plain text; the first cell of a row is its heading, each further line of a cell is fainter.

    Without any text in ``head`` there is none. With ``stacked`` a row becomes a block on a phone, each cell with its
    column's name; else the table scrolls there.
    """
    top = "".join(f'<th scope="col"{_role("columnheader", stacked)}>{_lines(text)}</th>' for text in head)
    labels = [escape(text.replace("\n", ", ")) for text in head]
    body = ""
    for row in rows:
        cells = (
            f"<td{_role('cell', stacked)}{_label(label, stacked)}>{_lines(text)}</td>"
            for label, text in zip(labels[1:], row[1:], strict=False)
        )
        heading = f'<th scope="row"{_role("rowheader", stacked)}>{_lines(row[0])}</th>'
        body += f"<tr{_role('row', stacked)}>{heading}{''.join(cells)}</tr>"
    around = '<div class="scroll">' if stacked else '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
    groups, style = _role("rowgroup", stacked), ' class="stacked"' if stacked else ""
    first = f"<thead{groups}><tr{_role('row', stacked)}>{top}</tr></thead>" if any(head) else ""
    return f"{around}<table{style}{_role('table', stacked)}>{first}<tbody{groups}>{body}</tbody></table></div>"


def _role(name: str, stacked: bool) -> str:
    """Cells that are laid out as blocks would lose their meaning for screen readers, were it not said."""
    return f' role="{name}"' if stacked else ""


def _label(label: str, stacked: bool) -> str:
    return f' data-label="{label}"' if stacked and label else ""


def _lines(text: str) -> str:
    first, *rest = text.split("\n")
    return escape(first) + "".join(f"<small>{escape(line)}</small>" for line in rest)
