"""Pieces of HTML; every text from outside is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def escaped(text: object) -> str:
    """Return a text as HTML shows it unchanged."""
    return html.escape(str(text))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], row_classes: Sequence[str] = ()) -> str:
    """Return a table; cells are HTML already, the first of a row is its heading.

    Parameters
    ----------
    caption, header : str and sequence of str
        Plain texts.
    rows : iterable of sequence of str
        Cells as HTML.
    row_classes : sequence of str
        A CSS class for each row, where there are any.
    """
    head = "".join(f'<th scope="col">{escaped(title)}</th>' for title in header)
    lines = []
    for number, (first, *others) in enumerate(rows):
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        css = f' class="{row_classes[number]}"' if row_classes and row_classes[number] else ""
        lines.append(f'<tr{css}><th scope="row">{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bullets(texts: Iterable[str]) -> str:
    """Return a list of plain texts."""
    return "<ul>" + "".join(f"<li>{escaped(text)}</li>" for text in texts) + "</ul>"


def section(key: str, title: str, content: str, note: str = "") -> str:
    """Return a section under a heading, with a note (plain text) that says how to read it."""
    told = f'<p class="note">{escaped(note)}</p>' if note else ""
    heading = f'<h2 id="{key}-title">{escaped(title)}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{told}{content}</section>'


def chart(key: str, description: str, min_width: int = 0) -> str:
    """Return the place of a chart; ``description`` is read to those who do not see it."""
    style = f' style="min-width:{min_width}px"' if min_width else ""
    return (
        f'<div class="scroll" tabindex="0" role="figure" aria-label="{escaped(description)}">'
        f'<div id="chart-{key}" class="chart"{style}></div></div>'
    )
