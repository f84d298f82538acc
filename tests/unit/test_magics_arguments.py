"""A magic's line is split as a shell would, and every mistake is one sentence."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from h2q_notebook.errors import BadArgument
from h2q_notebook.magics.arguments import MagicParser, as_usage_error, converted
from h2q_notebook.units import parse_bytes


def parser() -> MagicParser:
    made = MagicParser("%test", "A test.")
    made.add_argument("source")
    made.add_argument("--name", default="")
    made.add_argument("--size", type=converted(lambda text: parse_bytes(text, field="--size")))
    return made


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("plain", "plain"),
        ("'with blanks in it'", "with blanks in it"),
        ('"double quotes"', "double quotes"),
        (r"C:\models\new", r"C:\models\new"),
        ("no#comment", "no#comment"),
        ("{not} --name $expanded", "{not}"),
    ],
)
def test_quotes_group_and_nothing_else_is_special(line: str, source: str) -> None:
    assert parser().parse_line(line).source == source


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "the following arguments are required: source"),
        ("a b", "unrecognized arguments: b"),
        ("a --nam x", "unrecognized arguments: --nam x"),
        ("a --name", "expected one argument"),
        ("'a", "a quote is not closed"),
        ("a --size lots", "cannot read 'lots' as a size"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_magic(line: str, says: str) -> None:
    with pytest.raises(BadArgument) as caught:
        parser().parse_line(line)
    assert says in str(caught.value)
    assert str(caught.value).startswith("%test: ")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_line_is_parsed_or_refused_and_never_ends_the_process(line: str) -> None:
    try:
        parsed = parser().parse_line(line)
    except BadArgument as error:
        said = str(error)
    else:
        said = ""
        assert isinstance(parsed.source, str)
    assert said == "" or said.isprintable()


# An argument that begins with - would be taken for an option, as in every shell.
words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda word: not word.startswith("-") and "'" not in word
)


@given(words)
def test_a_quoted_argument_arrives_unchanged(word: str) -> None:
    assert parser().parse_line(shlex.quote(word)).source == word


def test_users_see_ipythons_usage_error_itself() -> None:
    # IPython shows subclasses with a full traceback (ipython#14024).
    error = as_usage_error(BadArgument("size: wrong"))
    assert type(error) is UsageError
    assert str(error) == "size: wrong"
    assert error.__suppress_context__
