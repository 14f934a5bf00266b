"""The tvmc command: options, commands and exit codes of the tvmc that came with TVM up to 0.19, on TVM 0.27."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

from cospipe import __version__
from cospipe.ir.errors import CospipeError, first_line, nearest
from cospipe.tvmc import compile_command, run_command, tune_command
from cospipe.tvmc.config import DEFAULT_CONFIG, apply_config, read_config
from cospipe.tvmc.missing_packages import MissingPackageError, package_of
from cospipe.tvmc.model_formats import FrontEndGoneError
from cospipe.tvmc.removed_options import other_target, refuse_commands

GOOD, NO_COMMAND, WRONG_USAGE, FAILED, PACKAGE_MISSING, INTERRUPTED = 0, 1, 2, 4, 5, 130
_MOST_VERBOSE = 3
_EPILOG = """\
exit codes: 0 good; 1 no command; 2 wrong usage; 4 an error, told in one sentence;
5 a Python package for this kind of model is missing.
"""

log = logging.getLogger("cospipe")


def _main(argv: Sequence[str]) -> int:
    """Run one command line without the name of the program; return its exit code."""
    before = argparse.ArgumentParser(prog="tvmc", add_help=False)
    before.add_argument("--config", default=DEFAULT_CONFIG)
    config = before.parse_known_args(argv)[0].config
    parser, commands = _parsers()
    if option := other_target(argv):
        parser.error(f"{option}: this driver compiles for CPUs only; use the target kind llvm.")
    try:
        chosen = next((text for text in argv if text in commands), "")
        apply_config(commands, chosen, read_config(config))
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            commands.get(chosen, parser).error(_not_known(unknown, commands.get(chosen, parser)))
        _set_verbosity(min(args.verbose, _MOST_VERBOSE))
        if args.version:
            print(f"{version('apache-tvm')} (cospipe {__version__})")
            return GOOD
        if not hasattr(args, "func"):
            parser.print_help(sys.stderr)
            return NO_COMMAND
        return args.func(args) or GOOD
    except (MissingPackageError, FrontEndGoneError) as error:
        return _told(str(error), PACKAGE_MISSING)
    except ModuleNotFoundError as error:
        if (missing := package_of(error)) is None:
            raise
        return _told(str(missing), PACKAGE_MISSING)
    except CospipeError as error:
        return _told(str(error), FAILED)
    except OSError as error:  # a name that is too long, a disk that is gone
        return _told(f"{error.filename}: {error.strerror}." if error.filename else f"{first_line(error)}.", FAILED)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command line, and those of its commands by name."""
    parser = argparse.ArgumentParser(
        prog="tvmc",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compile, run and tune networks with TVM.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        metavar="NAME|FILE",
        help="configuration JSON file with defaults of options.",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="increase verbosity.")
    parser.add_argument("--version", action="store_true", help="print the version and exit.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (compile_command, run_command, tune_command):
        command.add_parser(subparsers)
    commands = dict(subparsers.choices)
    refuse_commands(subparsers)
    return parser, commands


def _not_known(arguments: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return that a parser knows no such arguments, and the options that they may have been meant to be."""
    text = f"unrecognized arguments: {' '.join(arguments)}"
    shown = (action for action in parser._actions if action.help != argparse.SUPPRESS)
    options = [option for action in shown for option in action.option_strings]
    meant = (nearest(name.partition("=")[0], options) for name in arguments if name.startswith("--"))
    return ". ".join([text, *(sentence.rstrip(".") for sentence in meant if sentence.startswith("Did you"))])


def _set_verbosity(level: int) -> None:
    log.setLevel(max(logging.WARNING - 10 * level, logging.DEBUG))


def _told(sentence: str, code: int) -> int:
    sys.stderr.write(f"Error: {sentence}\n")
    return code


def main() -> None:
    """Run the command line of this process."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore")  # other libraries' notes to developers, not to our user
    try:
        sys.exit(_main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; nothing half-written was left behind.\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # a kernel may still run in a thread that nobody can end
    except BrokenPipeError:
        sys.exit(GOOD)
