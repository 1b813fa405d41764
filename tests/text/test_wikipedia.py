"""Markup removal, and that the demo text is prose in the amount that the documentation states."""

from __future__ import annotations

import importlib.util
import re

import pytest

from evopress.errors import DataError, MissingExtra
from evopress.text.wikipedia import demo_articles, plain_text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("a [[link]], a [[page|label]], [[:Category:Cats|cats]]", "a link, a label, cats"),
        ("[[File:a.jpg|thumb|a [[cat]] [http://x y]]]Text", "Text"),
        ("Text [[Category:Cats]] [[fr:Chat]]", "Text"),
        ("see [http://example.org the site] [http://example.org]", "see the site"),
        ('One<ref name="a"/> two<ref>{{cite|x}}</ref> three', "One two three"),
        ("A {{outer|{{inner}}|x}} B", "A B"),
        ("{{convert|5|km|mi}} or {{convert|5|to|10|km}}", "5 km or 5 to 10 km"),
        ("({{lang-el|Ἀ}}, {{IPA|x}}) and {{lang|fr|chat}} {{formatnum: 3003}} m", "(Ἀ) and chat 3003 m"),
        ("{{quote|words of [[A (b)|A]]}}", "words of A"),
        ('before\n{| class="wikitable"\n| a {{b}}\n{| inner\n|}\n|}\nafter', "before\nafter"),
        ("* one\n** two\n: three\n; four", "one\ntwo\nthree\nfour"),
        ("1 &lt; 2&nbsp;&ndash; 3 <br/>x<!-- hidden\n -->y", "1 < 2 – 3 xy"),
        ("T\n== Kept ==\nx\n== Empty ==\n\n== Last ==\ny", "T\n\nKept\nx\n\nLast\ny"),
        ("x\n== References ==\ny", "x"),
        ("E is <math>mc^2</math>.", "E is."),
        ("__NOTOC__\nx ( ; b) ()", "x (b)"),
        ("#REDIRECT [[x]]", "REDIRECT x"),
    ],
)
def test_markup_becomes_prose(markup: str, text: str):
    assert plain_text(markup) == text


def test_the_demo_text_is_long_and_free_of_markup():
    articles = list(demo_articles())
    assert len(articles) > 80
    assert len({title for title, _ in articles}) == len(articles)
    assert sum(len(text) for _, text in articles) > 2_500_000
    for title, text in articles:
        assert not re.search(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?[a-z]+|https?://|&[a-z]+;|'''|\(\s*\)|thumb\|", text), (
            title
        )
    assert next(text for title, text in articles if title == "Anarchism").startswith(
        "Anarchism is a political philosophy that advocates self-governed societies based on voluntary institutions."
    )


def test_without_gensim_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install gensim"):
        next(demo_articles())


def test_a_gensim_without_its_test_data_is_an_error(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("gensim", "/nowhere/gensim/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match="without its test data"):
        next(demo_articles())
