"""Plain text of the Wikipedia sample that gensim ships, so that every machine has real text without a download.

The sample is a bz2 MediaWiki dump of 206 pages, half of them redirects. Reading it costs about two seconds. The
markup is removed by a few rules for what English articles contain, not by a parser of the whole language: the aim is
prose that a language model reads as prose. gensim is only located, never imported: its import takes seconds by itself.
"""

from __future__ import annotations

import bz2
import html
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from evopress.errors import DataError, MissingExtra

_FILE = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_SHORTEST_ARTICLE = 3000  # characters; below it a page is a stub or a list of links

# Elements whose content is no prose: it goes together with its tags.
_ELEMENTS = "ref|math|chem|gallery|timeline|imagemap|source|syntaxhighlight|score|hiero|table|code|pre|references|poem"
_ELEMENT = re.compile(rf"<({_ELEMENTS})\b(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)", re.DOTALL | re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*)\}\}", re.DOTALL)  # the innermost one: it holds no other
_TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_LINK = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)
_URL_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\]]+([^\]]*)\]")
_QUOTES = re.compile(r"'{2,}")
_SWITCH = re.compile(r"__[A-Z]+__")
_HEADING = re.compile(r"^(={2,6})\s*(.*?)\s*\1\s*$")
_LIST_MARK = re.compile(r"^[*#:;]+\s*")
_DROPPED_NAMESPACE = re.compile(r"(?:file|image|category|media|[a-z]{2,3}):", re.IGNORECASE)
# Sections that end an article and hold lists of links and books.
_APPENDIX = re.compile(
    r"^==\s*(?:see also|references|notes|footnotes|citations|sources|further reading|external links|bibliography"
    r"|notes and references|references and notes)\s*==\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_RANGE_WORDS = ("to", "and", "or", "by", "x", "-", "–")  # {{convert|5|to|10|km}}
# Where templates and references stood, punctuation is left over.
_LEFTOVERS = (
    (re.compile(r"\[\[|\]\]|\{\{|\}\}"), ""),
    (re.compile(r"\(\s*(?:[,;:/]\s*)*"), "("),
    (re.compile(r"(?:\s*[,;:])*\s*\)"), ")"),
    (re.compile(r"\s*\(\s*\)"), ""),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r" +([,.;:!?)])"), r"\1"),
)


def demo_articles() -> Iterator[tuple[str, str]]:
    """Title and plain text of the sample's articles, in the order of the dump.

    Raises:
        MissingExtra: gensim is not installed.
        DataError: this version of gensim does not ship the sample.
    """
    for title, markup in _pages(_locate()):
        text = plain_text(markup)
        if len(text) >= _SHORTEST_ARTICLE:
            yield title, text


def _locate() -> Path:
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        raise MissingExtra("the demo text is part of gensim, which is not installed: pip install gensim")
    path = Path(spec.origin).parent / "test" / "test_data" / _FILE
    if not path.is_file():
        raise DataError(f"gensim is installed without its test data ({path} is missing); gensim 4.4 has it")
    return path


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    """Title and markup of every article of a MediaWiki dump (not of redirects, templates, talk pages)."""
    with bz2.open(path) as stream:
        for _, page in ElementTree.iterparse(stream):
            if not page.tag.endswith("}page"):
                continue
            if page.find("{*}redirect") is None and page.findtext("{*}ns") == "0":
                yield page.findtext("{*}title", ""), page.findtext("{*}revision/{*}text", "")
            page.clear()


def plain_text(markup: str) -> str:
    """The prose of one MediaWiki page: paragraphs, list items and headings, one a line, sections apart by a blank line.

    >>> plain_text("The '''cat'''<ref>a book</ref> {{IPA|x}} is a [[Felidae|small]] [[animal]].")
    'The cat is a small animal.'
    """
    appendix = _APPENDIX.search(markup)
    text = markup[: appendix.start()] if appendix else markup
    text = _ELEMENT.sub("", _COMMENT.sub("", text))
    text = _URL_LINK.sub(lambda match: match[1].strip(), text)
    text = _until_stable(_LINK, _link_text, text)  # before templates, whose arguments a link's bar would split
    text = _until_stable(_TEMPLATE, _template_text, text)
    text = _until_stable(_TABLE, lambda match: "", text)
    text = _SWITCH.sub("", _QUOTES.sub("", _TAG.sub("", text)))
    text = html.unescape(text).replace("\xa0", " ")
    return _join_lines(text)


def _until_stable(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace innermost matches until none is left: nested constructs go from the inside out."""
    while True:
        text, count = pattern.subn(replace, text)
        if not count:
            return text


def _template_text(match: re.Match[str]) -> str:
    """The words a template puts into its sentence; most templates put none."""
    name, *arguments = (part.strip() for part in match[1].split("|"))
    positional = [argument for argument in arguments if "=" not in argument]
    match name.lower():
        case "convert" | "cvt" if len(positional) >= 2:
            return " ".join(positional[: 4 if positional[1] in _RANGE_WORDS else 2])
        case "lang" | "abbr" | "transl" | "nihongo" if len(positional) >= 2:
            return positional[0] if name.lower() in ("abbr", "nihongo") else positional[-1]
        case "nowrap" | "nobr" | "small" | "quote" | "cquote" | "blockquote" | "as of" if positional:
            return positional[0]
        case "ndash" | "spaced ndash" | "snd":
            return " – "
        case "mdash":
            return "—"
        case name if name.startswith("lang-") and positional:
            return positional[-1]
        case name if name.startswith("formatnum:"):
            return name.removeprefix("formatnum:").strip()
    return ""


def _link_text(match: re.Match[str]) -> str:
    """The visible label of an internal link; files, categories and links to other languages have none."""
    target, _, label = match[1].partition("|")
    if _DROPPED_NAMESPACE.match(target.strip()):
        return ""
    return label if label.strip() else target.lstrip(":")


def _join_lines(text: str) -> str:
    """Drop empty lines and headings without a text below them; headings get a blank line above."""
    lines: list[str] = []
    heading = ""
    for raw in text.split("\n"):
        if found := _HEADING.match(raw.strip()):
            heading = found[2]
            continue
        line = _LIST_MARK.sub("", raw.strip())
        for pattern, replacement in _LEFTOVERS:
            line = pattern.sub(replacement, line)
        if not any(character.isalnum() for character in line) or line.startswith(("|", "!")):
            continue
        if heading:
            lines += ["", heading]
            heading = ""
        lines.append(line.strip())
    return "\n".join(lines).strip()
