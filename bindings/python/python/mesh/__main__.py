"""`python -m mesh check FILE`: says everything that is wrong with a configuration."""

from __future__ import annotations

import argparse
import sys

import mesh


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 valid, 1 refused."""
    parser = argparse.ArgumentParser(prog="python -m mesh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a configuration file")
    check.add_argument("file")
    chosen = parser.parse_args(arguments)
    findings = mesh.validate(chosen.file)
    for finding in findings:
        print(finding, file=sys.stderr)
    errors = sum(finding.severity == "error" for finding in findings)
    if not errors:
        print(f"{chosen.file}: valid")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
