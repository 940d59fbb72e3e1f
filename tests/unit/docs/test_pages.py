"""What the pages name is there: commands and options, links, keys of stack files, exit codes, variables, events.

The pages are those that users read: README, docs, the comments of the examples.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from swarmpy import errors
from swarmpy.cli import main as cli_main
from swarmpy.cli.main import cli
from swarmpy.compose import convert, schema

ROOT = Path(__file__).parents[3]
MARKDOWN = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = (*MARKDOWN, *sorted((ROOT / "compose-examples").glob("*.yml")))
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMENT = re.compile(r"^# {3}(.*?)(?: {2,}.*)?$", re.MULTILINE)
_CALL = re.compile(
    r"(?:\$ )?(?:(?:sudo |ExecStart=|[A-Z_]+=(?:\"[^\"]*\"|\S+) |printf [^|]*\| )*)(?:\S*/)?swarmpy((?: |$).*)"
)
_SHELL = re.compile(r"\s(?:\||\|\||&&|;|&|>|>>|2>)(?:\s|$)|;\s")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def sources(*folders: str) -> str:
    return "\n".join(file.read_text() for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))


# -- commands ---------------------------------------------------------------------------------------------------------


def written(page: Path) -> Iterator[tuple[str, bool]]:
    """All that may be a command line, and whether it is to be typed as it stands, or only named."""
    text = page.read_text()
    if page.suffix == ".yml":
        yield from ((line, True) for line in _COMMENT.findall(text))
        return
    for block in _FENCE.findall(text):
        yield from ((line, True) for line in block.replace("\\\n", " ").splitlines())
    yield from ((words, False) for words in _INLINE.findall(_FENCE.sub("", text)))


def command_lines() -> Iterator[tuple[str, list[str], bool]]:
    for page in PAGES:
        for line, is_call in written(page):
            match = _CALL.fullmatch(line.strip())
            if match is not None:
                words = shlex.split(_SHELL.split(match[1], maxsplit=1)[0], comments=True)
                yield f"{page.relative_to(ROOT)}: {line}", words, is_call and not re.search(r"\[|\.\.\.|\|", match[1])


def fault_of_call(words: list[str]) -> str:
    """Why a command line is not understood, or ""."""
    group: click.Command = cli
    try:
        context = cli.make_context("swarmpy", [*words])
        while isinstance(group, click.Group):
            rest = [*context._protected_args, *context.args]
            name, command, rest = group.resolve_command(context, rest)
            assert command is not None
            context = command.make_context(name, rest, parent=context)
            group = command
    except click.exceptions.Exit:
        return ""
    except click.UsageError as error:
        return error.format_message()
    return ""


def fault_of_mention(words: list[str]) -> str:
    """Which command or option of a synopsis is not there, or ""."""
    command: click.Command = cli
    rest = [word for word in " ".join(words).replace("[", " ").replace("]", " ").split() if word != "..."]
    while isinstance(command, click.Group) and rest:
        if rest[0].startswith("-"):
            rest = rest[2:]
            continue
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return f"there is no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    return f"there is no {', '.join(sorted(used - known))}" if used - known else ""


def test_every_command_line_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """Those in blocks as they stand; of those in a sentence, or with brackets, the command and its options."""
    found = list(command_lines())
    assert sum(is_call for _, _, is_call in found) > 80
    faults = {line: fault_of_call(words) if is_call else fault_of_mention(words) for line, words, is_call in found}
    assert {line: fault for line, fault in faults.items() if fault} == {}
    capsys.readouterr()


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, *path, name)


def test_every_command_and_option_is_explained() -> None:
    """By ``--help``; and what a group says of a command is not cut short."""
    missing = []
    for path, command in commands(cli, "swarmpy"):
        missing += [path] * (not command.help)
        options = [
            parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden
        ]
        missing += [f"{path} {option.opts[0]}" for option in options if not option.help]
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=path, terminal_width=80)
            listed = command.get_help(context).partition("Commands:")[2].splitlines()
            missing += [f"{path}: {line}" for line in listed if line.endswith("...")]
    assert missing == []


# -- links ------------------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_link_leads_somewhere() -> None:
    """To a file that is there, and a heading of it."""
    broken = []
    for page in MARKDOWN:
        for target in _LINK.findall(_FENCE.sub("", page.read_text())):
            if re.match(r"\w+:", target):
                continue
            file, _, heading = target.partition("#")
            other = (page.parent / file).resolve() if file else page
            known = (
                {anchor(text) for text in _HEADING.findall(_FENCE.sub("", other.read_text()))}
                if other.is_file()
                else set()
            )
            if not other.exists() or (heading and heading not in known):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_the_readme_lists_every_page() -> None:
    """A page that nothing leads to is not read."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


# -- words ------------------------------------------------------------------------------------------------------------


def exit_codes() -> set[int]:
    found = {value for name, value in vars(cli_main).items() if name.startswith("EXIT_")}
    return found | {0, 2} | {kind.exit_code for kind in errors._subclasses(errors.SwarmpyError)}


def test_the_exit_codes_are_those_of_the_table() -> None:
    """All that a command can end with, and no other."""
    page = (ROOT / "docs" / "running.md").read_text()
    section = page.split("## Exit codes", 1)[1].split("\n## ", 1)[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == exit_codes()


def test_the_keys_of_stack_files_are_explained() -> None:
    """Those of our own, in both directions."""
    page, code = (ROOT / "docs" / "stack-files.md").read_text(), sources("swarmpy/compose")
    key = re.compile(r"x-swarmpy-[a-z-]+[a-z]")
    assert set(key.findall(page)) == set(key.findall(code))
    everywhere = {word for other in PAGES for word in key.findall(other.read_text())}
    assert everywhere == set(key.findall(code))


def keys_on_the_page(part: str) -> set[str]:
    page = (ROOT / "docs" / "stack-files.md").read_text()
    table = page.split(f"<!-- keys: {part} -->", 1)[1].split("<!-- end -->", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def known(check: object, what: str) -> set[str]:
    """The keys, or the hints, of a record of the schema."""
    return set(inspect.getclosurevars(check).nonlocals[what])  # type: ignore[arg-type]


def test_the_page_has_every_key_of_stack_files() -> None:
    """What is used, ignored or refused: each key of the schema is in one of the tables, and no other."""
    ignored = {*convert._UNSUPPORTED, *convert._DEPRECATED, "depends_on"}
    assert keys_on_the_page("ignored") == ignored
    assert keys_on_the_page("used") == known(schema._SERVICE, "keys") - ignored
    assert keys_on_the_page("refused") == known(schema._SERVICE, "hints")
    assert keys_on_the_page("deploy") == known(schema._DEPLOY, "keys") - {"x-swarmpy-max-unavailable"}
    assert keys_on_the_page("top") == known(schema._ROOT, "keys")


def test_the_variables_are_read_somewhere() -> None:
    """Of each name in capitals that begins as ours do."""
    variable = re.compile(r"\bSWARMPY_[A-Z_]+[A-Z]\b")
    code = sources("swarmpy", "tests") + (ROOT / "tox.ini").read_text()
    named = {word for page in PAGES for word in variable.findall(page.read_text())}
    assert len(named) > 10
    assert {word for word in named if word not in code} == set()
    running = (ROOT / "docs" / "running.md").read_text()
    assert {word for word in variable.findall(sources("swarmpy/cli")) if f"`{word}" not in running} == set()


def test_the_events_are_logged_somewhere() -> None:
    """Of each ``event=NAME`` that a page shows or says."""
    code = sources("swarmpy")
    named = {word for page in MARKDOWN for word in re.findall(r"\bevent=(\w+)", page.read_text())}
    assert len(named) > 5
    assert {word for word in named if f'"{word}"' not in code} == set()
