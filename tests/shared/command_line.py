"""The command line, called in this process."""

import json

from click.testing import CliRunner

from qexplore.cli import main


def run(*arguments, **settings):
    """stdout, stderr and exit code of a command line."""
    done = CliRunner().invoke(main, list(map(str, arguments)), prog_name="qexplore", **settings)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def said(*arguments):
    """The JSON document of a command that does what it was asked for."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)
