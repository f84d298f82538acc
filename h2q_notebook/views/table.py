"""One table as text and as HTML, and the looks that views of models share.

Covers layout only: every cell is escaped, colours come from JupyterLab with fallbacks, there is no
script and no remote asset.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["BOX", "SOFT", "html_table", "text_table"]

BOX = (
    "font-family:var(--jp-ui-font-family,sans-serif);font-size:var(--jp-ui-font-size1,13px);"
    "color:var(--jp-ui-font-color1,inherit);line-height:1.55"
)
SOFT = "color:var(--jp-ui-font-color2,inherit);opacity:.85"
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top"

Rows = Sequence[Sequence[str]]


def text_table(head: Sequence[str], rows: Rows, indent: str = "  ") -> list[str]:
    """Lines with columns as wide as their widest cell; the last one is not padded."""
    everything = [head, *rows]
    widths = [max(len(row[at]) for row in everything) for at in range(len(head))]
    return [
        indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in everything
    ]


def html_table(head: Sequence[str], rows: Rows, bold: int | None = None) -> str:
    """A table; the row *bold* stands out."""
    top = "".join(
        f'<th scope="col" style="{_CELL};{SOFT};font-weight:400">{escape(cell)}</th>'
        for cell in head
    )
    body = ""
    for at, row in enumerate(rows):
        weight = ";font-weight:600" if at == bold else ""
        cells = "".join(f'<td style="{_CELL}{weight}">{escape(cell)}</td>' for cell in row)
        body += f"<tr>{cells}</tr>"
    return (
        '<table style="border-collapse:collapse;margin:2px 0">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )
