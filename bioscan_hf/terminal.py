"""Tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

WIDTH = 80

#: Letters that are left of a text that is cut.
_LEAST = 7


def aligned(rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Lines of a table with aligned columns, at most `WIDTH` wide; the first row is the header.

    Where it would be wider, the longest texts are cut in the middle. The other columns hold numbers, which never are.

    Args:
        texts: Number of columns of text, which come first.
    """
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while (excess := sum(widths) + 2 * (len(widths) - 1) - WIDTH) > 0 and max(widths[:texts]) > _LEAST:
        longest = widths.index(max(widths[:texts]))
        others = max([_LEAST, *(width for i, width in enumerate(widths[:texts]) if i != longest)])
        widths[longest] = max(widths[longest] - excess, min(others, widths[longest] - 1))
    lines = []
    for row in cells:
        parts = [_cut(cell, width).ljust(width) for cell, width in zip(row[:texts], widths, strict=False)]
        parts += [cell.rjust(width) for cell, width in zip(row[texts:], widths[texts:], strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    """A text without its middle, if it is longer than a width: names often differ at their end."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"
