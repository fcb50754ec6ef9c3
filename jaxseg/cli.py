"""What the commands share: configs on the command line, readable help and one-line errors."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from jaxseg import config as config_module
from jaxseg.config import Config

USAGE_ERROR = 2
WORKDIR = flags.DEFINE_string("workdir", None, "The directory of the run. [train: a new one]")


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command's `main`, with arguments that can't be understood said in one line."""
    app.run(main, flags_parser=_parse)


def fail(message: str, code: int = USAGE_ERROR) -> typing.NoReturn:
    """Ends the command with one line that says what is wrong."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


def explain(error: Exception) -> str:
    """An exception as one line for the user; -v=1 logs the traceback besides."""
    logging.debug("Traceback:", exc_info=error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _parse(argv: list[str]) -> list[str]:
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(_help(), end="")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        fail(f"{error}; see --help")
    except KeyError:
        fail(_unknown_field(argv))
    except OSError as error:
        fail(f"the config file can't be read: {explain(error).splitlines()[0]}")
    except (AttributeError, TypeError, ValueError) as error:
        fail(f"the arguments can't be applied to the config: {explain(error)}; see --help")
    except Exception as error:  # whatever a config file raises when it is executed
        fail(f"the config file fails with {type(error).__name__}: {explain(error)}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}; options look like --config.steps=100, see --help")
    if "config" in flags.FLAGS and not _is_config(flags.FLAGS.config):
        fail("get_config() of the config file must return a jaxseg.config.Config")
    return rest


def _is_config(value) -> bool:
    # By name, because the default config is a second copy of the module, loaded from its file.
    return dataclasses.is_dataclass(value) and type(value).__name__ == Config.__name__


def _unknown_field(argv: list[str]) -> str:
    known = [name for name, *_ in fields(Config)]
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            close = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            hint = f"did you mean --config.{close[0]}?" if close else "see --help for all fields"
            return f"--config.{match[1]} is not a field of the config; {hint}"
    return "a --config option names no field of the config; see --help for all fields"


def fields(kind: type, prefix: str = "") -> Iterator[tuple[str, str, typing.Any, str]]:
    """The name, type, default and comment of each field of a config class, nested ones included."""
    comments = dict(re.findall(r"^    (\w+):[^#\n]*#\s*(.*)$", inspect.getsource(kind), re.M))
    types = typing.get_type_hints(kind, vars(config_module))
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(types[field.name]):
            yield from fields(types[field.name], f"{name}.")
        else:
            yield name, field.type, field.default, comments.get(field.name, "")


def _help() -> str:
    main = sys.modules["__main__"]
    lines = [inspect.cleandoc(main.__doc__ or ""), "", "Options:"]
    for flag in flags.FLAGS.flags_by_module_dict().get(sys.argv[0], []):
        default = "" if flag.default in (None, False) else f" [{flag.default}]"
        lines.append(f"  --{flag.name}  {flag.help}{default}")
    if "config" in flags.FLAGS:
        lines += ["", "Fields of the config, with their defaults:"]
        for name, _, default, comment in fields(Config):
            lines.append(f"  --config.{name}={default!r}")
            if comment:
                lines.append(f"      {comment}")
    return "\n".join(lines) + "\n"
