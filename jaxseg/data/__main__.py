"""Looks at data, prepares them, and writes configs for them: python -m jaxseg.data COMMAND

    inspect    counts, sizes, classes and their weights, and what would stop training
    prepare    writes the examples of a config into shards, from which training reads them faster
    new        looks at a folder of images and masks and writes a config for it

Each has its own help: python -m jaxseg.data inspect --help
"""

import difflib
import importlib
import sys

from jaxseg import cli

COMMANDS = {"inspect": "inspection", "prepare": "preparation", "new": "page"}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "-help", "--help"):
        print(__doc__, end="")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"give one of {', '.join(COMMANDS)}"
        cli.fail(f"{name!r} is no command of jaxseg.data; {hint}")
    del sys.argv[1]
    command = importlib.import_module(f"jaxseg.data.{COMMANDS[name]}")
    cli.run(command.main, command.define_flags, arguments=command.ARGUMENTS)


if __name__ == "__main__":
    main()
