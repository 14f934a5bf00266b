"""What README, CONTRIBUTING and docs/ name exists: commands and their options, make targets, files, passes."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cospipe.cli import app
from cospipe.passes.pipeline import PASSES, parse_pipeline

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def command_lines(text):
    """Shell commands of a page: lines of fenced blocks that are not Python, and code within sentences."""
    fenced = [line for language, block in FENCE.findall(text) if language != "python" for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    words = ("cospipe", "make", "python", "pip")
    return [line for line in fenced + inline if line.split(" ")[0].removeprefix(".venv/bin/") in words and " " in line]


def commands(program):
    """Every use of a program: the page and the words behind it."""
    for page, text in TEXTS.items():
        for line in command_lines(text):
            first, *words = shlex.split(line, comments=True)
            if first.removeprefix(".venv/bin/") == program:
                yield page, words


def slug(heading):
    """How a heading is named in a link."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_pages_name_commands():
    assert len(list(commands("cospipe"))) > 10
    assert len(list(commands("make"))) > 5
    assert len(list(commands("pip"))) > 3


def test_cospipe_commands_and_options_exist():
    known = {name: {option for param in command.params for option in param.opts} for name, command in all_commands()}
    for page, words in commands("cospipe"):
        name = " ".join(words[:2]) if words[0] == "adapter" and len(words) > 1 else words[0]
        assert name in known, f"{page}: cospipe {name}"
        options = {word.split("=")[0] for word in words if word.startswith("-")} - {"--help"}
        assert options <= known[name], f"{page}: {options - known[name]} of cospipe {name}"


def subcommands():
    return get_command(app).commands.items()


def all_commands():
    """The commands and those of groups: ``adapter`` and ``adapter info``."""
    for name, command in subcommands():
        yield name, command
        for inner, inner_command in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", inner_command


def test_every_command_is_in_the_readme():
    used = {words[0] for page, words in commands("cospipe") if page == "README.md"}
    assert used | {"demo"} == {name for name, _ in subcommands()}  # the demo is there as `make demo`


def test_make_targets_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, words in commands("make"):
        assert words[0] in targets, f"{page}: make {words[0]}"


def test_scripts_exist():
    scripts = [(page, words[0]) for page, words in commands("python") if words[0].endswith(".py")]
    assert scripts
    for page, script in scripts:
        assert (ROOT / script).is_file(), f"{page}: python {script}"


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page, words in commands("pip"):
        for extra in re.findall(r"(?:^|[ '\"])(?:\.|cospipe)\[(\w+)\]", " ".join(words)):
            assert extra in project["optional-dependencies"], f"{page}: {extra}"


def test_passes_exist():
    assert set(PASSES) <= set(re.findall(r"`([a-z-]+)`", TEXTS["CHANGELOG.md"]))
    texts = [words[words.index("--passes") + 1] for _, words in commands("cospipe") if "--passes" in words]
    assert [step.name for text in texts for step in parse_pipeline(text)]


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_links_to_files_and_headings_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page]))
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page} links to {link}"


def test_every_page_is_linked_from_the_readme_or_the_index():
    linked = TEXTS["README.md"] + TEXTS["docs/README.md"]
    assert [page for page in TEXTS if Path(page).name not in linked and Path(page).name != "README.md"] == []
