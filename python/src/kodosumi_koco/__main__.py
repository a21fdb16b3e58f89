"""``python -m kodosumi_koco run``."""

import argparse
import sys

from kodosumi_koco import __version__
from kodosumi_koco.launcher import run


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m kodosumi_koco")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    launcher = commands.add_parser("run", help="run the entry point that KODO_ENTRY_POINT names")
    launcher.add_argument(
        "--non-retryable",
        metavar="TYPE",
        action="append",
        default=[],
        help="an exception that ends the job, with those derived from it: its name, or module.name. May be repeated",
    )
    arguments = parser.parse_args()
    return run(arguments.non_retryable)


if __name__ == "__main__":
    sys.exit(main())
