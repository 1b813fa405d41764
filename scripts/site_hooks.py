"""Hooks of mkdocs: pages in docs/ may link to any file of the repository, as they do on GitHub.

On the site such files are copied below `repository/`: Markdown as a page of its own, anything else as it is. Links are
rewritten to the copies, so that `mkdocs build --strict` checks them and the site needs no network.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
COPIES = "repository"


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside docs/ that a page links to, and what those that are pages link to."""
    pending = [("docs/" + file.src_uri, Path(file.abs_src_path or "")) for file in files.documentation_pages()]
    while pending:
        name, path = pending.pop()
        for target in _targets(name, path.read_text(encoding="utf-8")):
            uri = f"{COPIES}/{target}"
            source = ROOT / target
            if target.startswith("docs/") or not source.is_file() or files.get_file_from_path(uri):
                continue
            files.append(File.generated(config, uri, abs_src_path=str(source)))
            if target.endswith(".md"):
                pending.append((target, source))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links that leave docs/, and those of copied pages that lead back into it."""
    uri = page.file.src_uri
    name = uri.removeprefix(f"{COPIES}/") if uri.startswith(f"{COPIES}/") else f"docs/{uri}"

    def replace(match: re.Match[str]) -> str:
        target = _resolve(name, match[2])
        if target is None:
            return match[0]
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{COPIES}/{target}"
        return match[1] + posixpath.relpath(place, posixpath.dirname(uri) or ".") + match[3]

    return LINK.sub(replace, markdown)


def _targets(name: str, text: str) -> list[str]:
    found = (_resolve(name, match[2]) for match in LINK.finditer(text))
    return [target for target in found if target]


def _resolve(name: str, link: str) -> str | None:
    """The repository's path of a link in the file `name`; None for addresses of the web."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
