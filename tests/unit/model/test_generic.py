"""Generic resources in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.model.generic import merged, parse, variables
from swarmpy.model.specs import GenericResource


def test_counts_and_names() -> None:
    """Each kind once, sorted; names keep their order."""
    assert parse(["ssd=3", "gpu=U2,gpu=U1", "NVIDIA-GPU=GPU-1=x"]) == (
        GenericResource(kind="NVIDIA-GPU", names=("GPU-1=x",)),
        GenericResource(kind="gpu", names=("U2", "U1")),
        GenericResource(kind="ssd", count=3),
    )
    assert parse([]) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "invalid generic resource 'gpu': write KIND=COUNT or KIND=NAME"),
        ("gpu=", "invalid generic resource 'gpu=': write KIND=COUNT"),
        ("=2", "invalid generic resource '=2': write"),
        ("a b=2", "invalid generic resource 'a b=2': write"),
        ("gpu=\x1b", "invalid generic resource 'gpu=\\x1b': write"),
        ("gpu=" + "x" * 129, "invalid generic resource 'gpu=xxx"),
        ("gpu=0", "invalid generic resource 'gpu=0': a count is from 1 to 2147483647"),
        ("gpu=99999999999", "invalid generic resource 'gpu=99999999999': a count is"),
        ("gpu=1,gpu=2", "generic resource 'gpu' is given two counts"),
        ("gpu=a,gpu=a", "generic resource 'gpu=a' is given twice"),
        ("gpu=a,gpu=1", "generic resource 'gpu' has a count and names: give one or the other"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    """In one line."""
    with pytest.raises(InvalidArgument, match="^" + re.escape(message)) as caught:
        parse([text])
    assert str(caught.value).isprintable()


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never a defect."""
    try:
        found = parse([text])
    except InvalidArgument:
        return
    assert all(each.amount for each in found)


def test_what_the_daemon_was_given_counts_more() -> None:
    """Than what its engine tells of the same kind."""
    told = (GenericResource(kind="gpu", count=1), GenericResource(kind="ssd", count=1))
    given_here = (GenericResource(kind="gpu", names=("U1",)),)
    assert merged(told, given_here) == (*given_here, told[1])


def test_variables() -> None:
    """With Docker's names."""
    assert variables(parse(["gpu=a,gpu=b", "NVIDIA-gpu=2"])) == [
        "DOCKER_RESOURCE_NVIDIA-GPU=2",
        "DOCKER_RESOURCE_GPU=a,b",
    ]
