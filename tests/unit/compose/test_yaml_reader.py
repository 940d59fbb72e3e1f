"""The YAML reader: scalars, lines, duplicate keys, merges and the guards."""

from __future__ import annotations

import math
from typing import Any

import pytest

from swarmpy.compose.yaml_reader import MAX_DEPTH, MAX_NODES, dotted, read_document, resolve
from swarmpy.errors import ComposeError


def read(text: str | bytes) -> dict[str, Any]:
    return read_document(text.encode() if isinstance(text, str) else text, "f.yml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("22:22", "22:22"),
        ("3306:3306", "3306:3306"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("0x", "0x"),
        ("-", "-"),
        ("<<", "<<"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("1_000", 1000),
        ("0440", 0o440),
        ("0o440", 0o440),
        ("0x1F", 31),
        ("0b101", 5),
        ("0", 0),
        ("08", 8.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", math.inf),
    ],
)
def test_plain_scalars_mean_what_the_field_means(text: str, value: object) -> None:
    """Words that YAML 1.1 turns into booleans and base-60 numbers stay strings."""
    result = resolve(text)
    assert result == value
    assert type(result) is type(value)


def test_quoted_scalars_are_strings() -> None:
    """Quotes keep a value from being a number or a boolean."""
    assert read("a: '1'\nb: \"true\"\nc: |\n  12\n") == {"a": "1", "b": "true", "c": "12\n"}


def test_numbers_of_any_length_are_read() -> None:
    """A number with thousands of digits is a float, not a failure."""
    assert read("a: " + "9" * 5000)["a"] == math.inf


def test_lines_are_remembered() -> None:
    """An error names the line of the key it is about, also inside lists."""
    document = read_document(b"services:\n  web:\n    ports:\n      - 80\n      - 81\n", "f.yml")
    assert str(document.error(("services", "web", "ports"), "x")) == "f.yml:3: services.web.ports: x"
    assert str(document.error(("services", "web", "ports", 1), "x")) == "f.yml:5: services.web.ports[1]: x"
    assert str(document.error(("services", "web", "nope"), "x")) == "f.yml:2: services.web.nope: x"
    assert str(document.error((), "x")) == "f.yml:1: x"


def test_merge_keys_are_merged_and_own_keys_win() -> None:
    """``<<`` takes a mapping or a list of mappings, of which the earlier wins."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd:\n  <<: *b\n"
    data = read(text)
    assert data["c"] == {"x": 3, "y": 1, "z": 2}
    assert data["d"] == {"y": 2, "z": 2}


def test_only_the_first_document_counts() -> None:
    """A stream of several documents is read up to the second."""
    assert read("a: 1\n---\nb: 2\n") == {"a": 1}


def test_utf16_with_a_byte_order_mark_is_read() -> None:
    """Files of other systems' editors are read."""
    assert read("a: ü\n".encode("utf-16")) == {"a": "ü"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yml:3: duplicate key 'a', first given in line 1"),
        ("a: [1\n", "f.yml:2: not valid YAML: "),
        ("a:\n\t- 1\n", "f.yml:2: not valid YAML: "),
        ("", "f.yml: the file is empty"),
        ("# nothing\n", "f.yml: the file is empty"),
        ("- 1\n", "f.yml:1: the top of a stack file must be a mapping"),
        ("text\n", "f.yml:1: the top of a stack file must be a mapping"),
        ("1: a\n", "f.yml:1: the key must be a string, not 1"),
        ("? [a]\n: b\n", "f.yml:1: the key must be a string, not a list or mapping"),
        ("a: *x\n", "f.yml:1: unknown anchor 'x'"),
        ("a: &x\n  b: *x\n", "f.yml:2: the value of anchor 'x' contains itself"),
        ("a: !!python/object/apply:os.system [ls]\n", "f.yml:1: the YAML tag 'tag:yaml.org,2002:python/object/"),
        ("a: !reset null\n", "f.yml:1: the YAML tag '!reset' is not supported here"),
        ("a: !!int x\n", "f.yml:1: 'x' is no int, as its tag says"),
        ("a:\n  <<: 1\n", "f.yml:2: '<<' takes a mapping"),
        ("a: \x01\n", "f.yml"),
    ],
)
def test_faults_are_one_clear_line(text: str, message: str) -> None:
    """Whatever is wrong with the YAML is named with file and line."""
    with pytest.raises(ComposeError) as caught:
        read(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    """A binary file is not a stack file."""
    with pytest.raises(ComposeError, match=r"f\.yml"):
        read(b"\xff\xfe\xff\x00\x80")


def test_depth_is_bounded() -> None:
    """Nesting without end is refused before it costs anything."""
    with pytest.raises(ComposeError, match="nested deeper"):
        read("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(ComposeError, match="nested deeper"):
        read("a: " + "[" * 100_000)


def test_alias_bombs_are_refused() -> None:
    """A short document that expands to millions of values is refused, whether by lists or by merges."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ComposeError, match=f"expand to more than {MAX_NODES} values"):
        read("\n".join(rows))
    rows = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(1000)) + "}"]
    rows += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    with pytest.raises(ComposeError, match=f"expand to more than {MAX_NODES} values"):
        read("\n".join(rows))


def test_paths_are_shown_as_people_write_them() -> None:
    """Positions in lists stand in brackets."""
    assert dotted(("services", "web", "ports", 0, "target")) == "services.web.ports[0].target"
