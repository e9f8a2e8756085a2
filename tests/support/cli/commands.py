"""The command line in this process: what a command prints, its JSON, and the one line that a bad input ends in."""

import json

from typer.testing import CliRunner

from aslfast.cli.main import app


def call(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def as_json(*args):
    result = call(*args, "--json")
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def refused(*args):
    """The one line that a bad input ends in."""
    result = call(*args)
    assert result.exit_code == 2, result.output + repr(result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("aslfast: error: "), result.stderr
    assert result.stdout == ""
    return lines[0]
