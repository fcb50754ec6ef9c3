"""What the commands share: configs on the command line, readable help and one-line errors."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import functools
import inspect
import itertools
import os
import pathlib
import re
import sys
import textwrap
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging

from jaxseg import config as config_module
from jaxseg import memory, parallel
from jaxseg.config import Config

FAILED, USAGE_ERROR, NO_WAY_ON = 1, 2, 3  # exit codes; docs/resuming.md says what they mean
# What is missing, forbidden or wrongly named is so the next time, too.
_STAYS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
_STAYS |= {errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EFBIG}


def run(
    main: Callable[..., None],
    define_flags: Callable[[], None],
    *,
    pairs: Sequence[str] = (),
    arguments: int = 0,
) -> None:
    """Runs a command: its flags, then `main`. Bad arguments are said in one line.

    The flags named in `pairs`, of several values, also take two of them after one name. Up to so
    many `arguments` that are no flags are given to `main`; its module's docstring is the help.

    Flags are defined here rather than on import, because ml_collections reads the command line to
    define a config flag, and a program that only imports the library has its own.
    """
    # A file that can't be read is an error of ours, in one line; what Pillow warns of comes first.
    warnings.filterwarnings("ignore", module="PIL")
    path = _config_path(sys.argv)
    if path is not None and not pathlib.Path(path).is_file():
        fail(f"the config file {path} does not exist; name a file such as configs/folder.py")
    others = set(flags.FLAGS)
    with _one_line_errors(sys.argv):
        define_flags()
    own = sorted(set(flags.FLAGS) - others)
    about = inspect.cleandoc(sys.modules[main.__module__].__doc__ or "")
    parser = functools.partial(_parse, own=own, pairs=pairs, arguments=arguments, about=about)
    app.run(lambda argv: main(*argv[1:]), flags_parser=parser)


def define_process_flags() -> None:
    """The flags by which several processes of a command find each other."""
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0, where several are started by hand."
    )
    flags.DEFINE_integer("num_processes", None, "The number of these processes.")
    flags.DEFINE_integer("process_id", None, "The index of this process.")
    flags.DEFINE_bool("distributed", False, "Join several processes as the cluster says.")


@contextlib.contextmanager
def work() -> Iterator[None]:
    """What a command does, as one of several processes if asked; errors are said in one line.

    A command without the flags of `define_process_flags` is one process.
    """
    args = flags.FLAGS
    memory.keep()
    _keep_compiled()
    join = contextlib.nullcontext()
    if "coordinator" in args and (args.distributed or args.coordinator):
        join = parallel.joined(args.coordinator, args.num_processes, args.process_id)
    with parallel.leaving_at_once():
        try:
            with join:
                yield
        except parallel.OtherHostError as error:
            fail(str(error), code=parallel.exit_code_of_others(FAILED))
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            if parallel.lost_another(error):
                code = parallel.exit_code_of_others(FAILED)
                fail(f"another host has failed or can't be reached: {error}", code=code)
            if isinstance(error, jax.errors.JaxRuntimeError):
                raise
            fail(explain(error), code=FAILED if _may_pass(error) else USAGE_ERROR)


def _may_pass(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of reading or writing that may not come again."""
    if error is None:
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:  # as Pillow's of a broken image is
        return error.errno not in _STAYS
    return parallel.BEFALLEN.match(str(error)) is not None or _may_pass(error.__cause__)


def _keep_compiled() -> None:
    """Lets later runs find what this one compiles, unless JAX was told where, or not to ("")."""
    if jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        path = os.path.join(home, "jaxseg", "compiled")
        with contextlib.suppress(OSError):  # it only saves time
            os.makedirs(path, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", path)
            # JAX keeps what takes a second, which a run's first state and its evaluation may not.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def fail(message: str, code: int = USAGE_ERROR) -> typing.NoReturn:
    """Ends the command with one line that says what is wrong."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(code)


def explain(error: Exception) -> str:
    """An exception as one line for the user; -v=1 logs the traceback besides."""
    logging.debug("Traceback:", exc_info=error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename is not None else "")
    return str(error) or type(error).__name__


def _parse(
    argv: list[str], *, own: list[str], pairs: Sequence[str], arguments: int, about: str
) -> list[str]:
    if any(argument in ("-h", "--help", "-help") for argument in argv[1:]):
        print(_help(about, own), end="")
        sys.exit(0)
    flags.FLAGS.set_gnu_getopt()  # flags may also follow what is none
    # As in --dry-run; absl knows underscores alone.
    argv = [
        re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), x) for x in argv
    ]
    with _one_line_errors(argv):
        rest = flags.FLAGS(_unpaired(argv, pairs))
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    for argument in rest[1 + arguments :]:
        fail(f"unexpected argument {argument!r}; options look like --config.steps=100, see --help")
    if "config" in flags.FLAGS and not _is_config(flags.FLAGS.config):
        fail("get_config() of the config file must return a jaxseg.config.Config")
    return rest


def _unpaired(argv: list[str], pairs: Sequence[str]) -> list[str]:
    """`--name A B` as `--name=A --name=B`."""
    found = list(argv)
    for name in pairs:
        for index, argument in enumerate(found):
            values = found[index + 1 : index + 3]
            named = argument in (f"--{name}", f"-{name}")
            if named and len(values) == 2 and not values[1].startswith("-"):
                found[index : index + 3] = [f"--{name}={value}" for value in values]
                break
    return found


@contextlib.contextmanager
def _one_line_errors(argv: list[str]) -> Iterator[None]:
    try:
        yield
    except flags.Error as error:
        *_, last = str(error).strip().splitlines()
        if "Traceback" in str(error):  # of a config file, which ml_collections quotes whole
            fail(f"the config file {_config_path(argv)} can't be loaded: {last}")
        fail(f"{error}; see --help")
    except KeyError as error:
        unknown = _unknown_field(argv)
        fail(unknown or f"the config file {_config_path(argv)} can't be loaded: KeyError {error}")
    except (AttributeError, TypeError, ValueError) as error:
        page = _config_path(argv)
        where = "" if page is None else f", or the config file {page} can't be loaded"
        fail(f"the arguments can't be applied to the config{where}: {explain(error)}; see --help")
    except Exception as error:  # whatever a config file raises when it is executed
        fail(f"the config file {_config_path(argv)} can't be loaded: {explain(error)}")


def _config_path(argv: list[str]) -> str | None:
    for argument, following in itertools.zip_longest(argv[1:], argv[2:]):
        if argument in ("--config", "-config"):
            return following
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    return None


def _is_config(value) -> bool:
    # By name, because the default config is a second copy of the module, loaded from its file.
    return dataclasses.is_dataclass(value) and type(value).__name__ == Config.__name__


def _unknown_field(argv: list[str]) -> str | None:
    known = [name for name, *_ in fields(Config)]
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            close = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            hint = f"did you mean --config.{close[0]}?" if close else "see --help for all fields"
            return f"--config.{match[1]} is not a field of the config; {hint}"
    return None


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


_INDENTED = {"initial_indent": " " * 6, "subsequent_indent": " " * 6, "break_on_hyphens": False}


def _help(about: str, own: list[str]) -> str:
    lines = [about, "", "Options:"]
    for name in own:
        if not name.startswith("config."):
            text, *_ = flags.FLAGS[name].help.partition(";\n")  # where absl tells how to repeat it
            lines.append(f"  --{name}")
            for line in text.split("\n"):
                lines += textwrap.wrap(line, 100, **_INDENTED)
    lines += ["  --verbosity=1", "      Show the traceback of an error, and more of what happens."]
    if "config" in own:
        lines += ["", "Fields of the config, with their defaults:"]
        for name, _, default, comment in fields(Config):
            lines.append(f"  --config.{name}={default!r}")
            if comment:
                lines.append(f"      {comment}")
    return "\n".join(lines) + "\n"
