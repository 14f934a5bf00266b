"""Options of ``cospipe optimize`` about the directory for a board, and what is said of it at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import UsageError

if TYPE_CHECKING:
    from cospipe.backends.board.options import RunnerOptions
    from cospipe.backends.bundle import Bundle


def runner_options(
    wanted: bool, sysroot: Path | None, glibc: str | None, cross_compiler: str | None
) -> RunnerOptions | None:
    """Return the options of the board directory; None when none is wanted.

    Raises
    ------
    UsageError
        When they are given without ``--runner``, or are wrong.
    """
    options = {"--sysroot": sysroot, "--glibc": glibc, "--cross-compiler": cross_compiler}
    given = [name for name, value in options.items() if value is not None]
    if not wanted and given:
        raise UsageError(f"Give --runner as well: {', '.join(given)} would change a board's directory only.")
    if not wanted:
        return None
    from cospipe.backends.board.options import RunnerOptions
    from cospipe.backends.tvm.link import GLIBC_FLOOR

    return RunnerOptions(glibc or GLIBC_FLOOR, sysroot, cross_compiler or "")


def board_values(bundle: Bundle) -> dict[str, Any]:
    """Return what a board directory brings along and needs of its board, ready for JSON; None for other bundles."""
    if bundle.manifest.runner is None:
        return {"runner": None}
    from cospipe.backends.board.directory import directory_needs, newest_needs
    from cospipe.backends.board.elf_needs import version_text

    newest = newest_needs(directory_needs(bundle.folder).values())
    needs = {what: version_text(version) for what, version in sorted(newest.items())}
    return {"runner": {**bundle.manifest.runner.model_dump(mode="json"), "needs": needs}}


def board_text(bundle: Bundle) -> str:
    """Return the same as one line for people; empty for other bundles."""
    values = board_values(bundle)["runner"]
    if values is None:
        return ""
    needs = values["needs"]
    cpp_library = f" and libstdc++ with GLIBCXX_{needs['GLIBCXX']}" if "GLIBCXX" in needs else ""
    return (
        f"Complete with {values['program']}; the board needs glibc {needs.get('GLIBC', 'of any version')}{cpp_library}"
    )
