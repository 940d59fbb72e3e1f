"""Variables in stack files."""

from __future__ import annotations

import pytest

from swarmpy.compose.interpolate import interpolate, substitute
from swarmpy.compose.yaml_reader import read_document
from swarmpy.errors import ComposeError

ENVIRONMENT = {"X": "x", "EMPTY": "", "N": "3", "Tag": "1.0"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("$X", "x"),
        ("${X}", "x"),
        ("a${X}b$X.c", "axbx.c"),
        ("$X-suffix", "x-suffix"),
        ("$Tag", "1.0"),
        ("$UNSET", ""),
        ("${UNSET}", ""),
        ("${UNSET:-d}", "d"),
        ("${UNSET-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${X:-d}", "x"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:b/c}", "a:b/c"),
        ("${X:?needed}", "x"),
        ("${EMPTY?needed}", ""),
        ("$$", "$"),
        ("$$X", "$X"),
        ("$${X}", "${X}"),
        ("$$$X", "$x"),
    ],
)
def test_substitution(text: str, result: str) -> None:
    """Every form of a variable gives its value, its default or nothing."""
    assert substitute(text, ENVIRONMENT) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET:?say it}", "required variable UNSET is missing a value: say it"),
        ("${UNSET?}", "required variable UNSET is missing a value"),
        ("${EMPTY:?say it}", "required variable EMPTY is missing a value: say it"),
        ("$", "a lone '$'"),
        ("100$ and more", "a lone '$'"),
        ("${X:=y}", "bad variable '${X:=y}'"),
        ("${}", "bad variable '${}'"),
        ("${1X}", "bad variable '${1X}'"),
        ("${X", "a lone '$'"),
    ],
)
def test_bad_variables_are_refused(text: str, message: str) -> None:
    """A required variable that is not set and bad syntax are errors that say what is wrong."""
    with pytest.raises(ValueError) as caught:
        substitute(text, ENVIRONMENT)
    assert str(caught.value).startswith(message)


def test_values_are_replaced_and_keys_are_not() -> None:
    """Variables count in values at any depth, never in keys."""
    document = read_document(b"x-a:\n  $X: [$X, {b: '${N}'}]\n", "f.yml")
    assert interpolate(document, ENVIRONMENT).data == {"x-a": {"$X": ["x", {"b": "3"}]}}


def test_numbers_and_booleans_are_made_where_they_belong() -> None:
    """A variable may stand for a number of replicas or a flag; the text of an unchanged value stays text."""
    text = b"services:\n  web:\n    tty: '${FLAG}'\n    init: 'true'\n    deploy: {replicas: '$N'}\n    image: $N\n"
    web = interpolate(read_document(text, "f.yml"), {"FLAG": "on", "N": "3"}).data["services"]["web"]
    assert web == {"tty": True, "init": "true", "deploy": {"replicas": 3}, "image": "3"}


def test_errors_name_file_line_and_key() -> None:
    """A variable that is missing or of the wrong kind is found without searching."""
    document = read_document(b"services:\n  web:\n    image: ${TAG?set TAG}\n    deploy: {replicas: $X}\n", "f.yml")
    with pytest.raises(ComposeError) as caught:
        interpolate(document, {})
    assert str(caught.value) == "f.yml:3: services.web.image: required variable TAG is missing a value: set TAG"
    with pytest.raises(ComposeError) as caught:
        interpolate(document, {"TAG": "a", "X": "many"})
    assert str(caught.value).startswith("f.yml:4: services.web.deploy.replicas: must be a whole number, not 'many'")
