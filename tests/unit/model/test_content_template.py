"""Placeholders in the data of secrets and configs."""

from __future__ import annotations

import contextlib
import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.content_template import ContentFacts, expand_content
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import TaskSpec
from swarmpy.model.template import NodeFacts

PLANTED = "hunter2-planted"
FACTS = ContentFacts(
    task=Task(
        id=TaskId("t1"),
        spec=TaskSpec(),
        service_id=ServiceId("s1"),
        service_name="web",
        service_labels={"b": "2", "a.b": "1"},
        slot=4,
    ),
    node=NodeFacts(id=NodeId("n1"), hostname="host1", architecture="x86_64"),
    env={"HOME": "/root", "NESTED": '{{env "HOME"}}'},
    secrets={"password": PLANTED.encode(), "raw": b"\xff\x00", "nested": b"{{.Task.ID}}"},
    configs={"app/x.conf": b"x = 1\n"},
)


def expanded(text: str | bytes, most: int = 1000) -> bytes:
    """The data with its placeholders replaced."""
    return expand_content(text.encode() if isinstance(text, str) else text, FACTS, most)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", b""),
        ("no braces { } }} at all", b"no braces { } }} at all"),
        ("{{.Service.ID}} {{.Service.Name}}", b"s1 web"),
        ("{{ .Task.ID }} {{.Task.Name}} {{ .Task.Slot }}", b"t1 web.4.t1 4"),
        ("{{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.OS}}", b"n1 host1 linux"),
        ('{{index .Service.Labels "a.b"}}{{.Service.Labels.b}}{{.Service.Labels.none}}', b"12"),
        ('{{env "HOME"}}{{ env `HOME` }}{{env "none"}}', b"/root/root"),
        ('p={{secret "password"}}', b"p=hunter2-planted"),
        ('{{config "app/x.conf"}}', b"x = 1\n"),
        ('{{secret "raw"}}', b"\xff\x00"),
        ('{{"{{"}}{{ `}}` }}', b"{{}}"),
        ("a{{/* a comment }} */}}b", b"ab"),
        ("a  {{- .Task.ID -}} \n b", b"at1b"),
        ("a {{.Task.ID -}}\n{{- .Task.ID}} b", b"a t1t1 b"),
        (r'{{"\"a\"\n"}}', b'"a"\n'),
        (b"\xff{{.Task.ID}}\xfe", b"\xfft1\xfe"),
    ],
)
def test_placeholders(text: str | bytes, result: bytes) -> None:
    """As Go's templates expand them."""
    assert expanded(text) == result


@pytest.mark.parametrize("text", ['{{env "NESTED"}}', '{{secret "nested"}}'])
def test_what_is_put_in_is_not_looked_at_again(text: str) -> None:
    """A secret that looks like a placeholder is none."""
    assert expanded(text).startswith(b"{{")


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "{{ .Task.ID",
        "{{}}",
        "{{.Task.Nope}}",
        "{{.Service.Labels.a.b}}",
        "{{if .Task.ID}}x{{end}}",
        "{{range .Service.Labels}}{{end}}",
        '{{env "HOME" | printf "%s"}}',
        '{{printf "%s" (env "HOME")}}',
        "{{env HOME}}",
        "{{.Task.__class__}}",
        '{{env "HOME}}',
        r'{{"\q"}}',
        r'{{"\ud800"}}',
        "{{.Task.ID-}}x",
        "{{/* never ends }}",
        '{{secret "none"}}',
        '{{config "password"}}',
    ],
)
def test_what_is_not_done_is_refused_without_a_quote(text: str) -> None:
    """The reason names the line, and nothing of the data: it may be a secret."""
    with pytest.raises(ValueError, match=r"^line 2: ") as caught:
        expanded(f"{PLANTED}\n{PLANTED}{text}{PLANTED}")
    assert PLANTED not in str(caught.value)
    assert PLANTED not in repr(caught.value.__cause__)
    assert caught.value.__suppress_context__


def test_it_does_not_blow_up() -> None:
    """What comes out has a bound, whatever goes in, and is not made first."""
    facts = attrs.evolve(FACTS, secrets={"big": b"x" * 500_000})
    with pytest.raises(ValueError, match=r"more than 512000 bytes"):
        expand_content(b'{{secret "big"}}' * 30_000, facts, 512_000)
    assert len(expand_content(b'{{secret "big"}}', facts, 500_000)) == 500_000


@pytest.mark.parametrize(
    "text", ["{{" * 200_000, '{{"' + '\\"' * 200_000, "{{/*" + "*" * 400_000, "{{" + " -" * 200_000]
)
def test_no_text_takes_long(text: str) -> None:
    """Time in proportion to the text."""
    began = time.process_time()
    with pytest.raises(ValueError, match=r"^line 1: "):
        expanded(text, 10**7)
    assert time.process_time() - began < 1


def test_many_placeholders_take_time_in_proportion() -> None:
    """The largest config, full of them."""
    began = time.process_time()
    assert len(expanded("\n{{.Task.ID}}" * 80_000, 10**7)) == 240_000
    assert time.process_time() - began < 5


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes without a placeholder stay as they are."""
    assert b"{{" in data or expanded(data) == data


@given(st.lists(st.sampled_from(["{{", "}}", "-", " ", '"', "`", "env", ".Task.ID", "/*", "*/", "\\", "\n", "x"])))
def test_any_words(words: list[str]) -> None:
    """Nothing but a reason comes of what is none."""
    with contextlib.suppress(ValueError):
        expanded("".join(words), 10_000)


def test_nothing_of_it_is_in_a_repr() -> None:
    """The facts hold the other secrets."""
    assert PLANTED not in repr(FACTS)
