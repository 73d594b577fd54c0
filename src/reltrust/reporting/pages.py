"""What the report takes from an experiment's page: its question, and where it deviates."""

import re
from collections.abc import Callable

from markdown_it import MarkdownIt
from markdown_it.token import Token

_TAKEN = re.compile(r"(Deviations|Choices|What the)\b")


def heading(page: str) -> str:
    """The text of its first heading; empty if it has none."""
    found = re.search(r"^# (.+)$", page, flags=re.MULTILINE)
    return found[1].strip() if found else ""


def deviations(page: str, moved: Callable[[str], str]) -> str:
    """HTML of the sections about deviations from what was published, choices of our own, and limits of what was found.

    Args:
        page: Markdown, whose sections begin with ``##``.
        moved: where a relative link leads from the report.
    """
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    text = "\n".join(f"#### {section}" for section in sections if _TAKEN.match(section))
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for token in tokens:
        for inner in token.children or ():
            _move(inner, moved)
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    # A table is wider than a telephone: it scrolls in a region of its own.
    html = html.replace("<table>", '<div class="scroll" role="region" aria-label="table" tabindex="0"><table>')
    return html.replace("</table>", "</table></div>")


def _move(token: Token, moved: Callable[[str], str]) -> None:
    target = token.attrGet("href")
    if token.type == "link_open" and isinstance(target, str) and "://" not in target:
        file, mark, place = target.partition("#")
        token.attrSet("href", moved(file) + mark + place if file else target)
