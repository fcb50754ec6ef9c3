"""What importing costs, which way the arrows point, and that annotations and examples are true."""

import ast
import doctest
import importlib
import inspect
import json
import pathlib
import pkgutil
import subprocess
import sys
import types
import typing

import pytest

import jaxseg

PACKAGE = pathlib.Path(jaxseg.__file__).parent

IMPORTS = """
import json, sys
import flax, jax, numpy, optax
from flax import nnx
before = set(sys.modules)
import jaxseg
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_loads_jax_flax_optax_and_numpy_at_most():
    """Nor a module of the standard library that those do without."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout)
    assert "jaxseg.losses" in loaded
    names = {name.split(".")[0] for name in loaded}
    assert "jaxseg" in names
    assert names <= {"jaxseg", "jax", "flax", "optax", "numpy"}  # jax may load more of its own


NOT_TO_TRAIN = {
    *("matplotlib", "nibabel", "optuna", "pandas", "pycocotools", "scipy"),
    *("tensorflow", "tensorflow_datasets", "tifffile", "torch", "wandb", "mlflow"),
}


def test_training_loads_nothing_slow_that_it_may_not_need():
    """It takes its time at each start, and before --help."""
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys, jaxseg.train; print(json.dumps([*sys.modules]))"],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    assert {"jaxseg.train", "orbax.checkpoint", "grain"} <= loaded
    assert loaded & NOT_TO_TRAIN == set()


ROOMS = {
    "batch": set(),
    "checks": set(),
    "memory": set(),
    "names": set(),
    "writing": set(),
    "config": {"writing"},
    "decisions": {"checks"},
    "pictures": set(),
    "labels": {"checks"},
    "losses": {"checks", "ops"},
    "metrics": {"checks", "ops"},
    "models": {"ops"},
    "ops": {"checks"},
    "optim": {"config", "names"},
    "cli": {"config", "memory", "parallel"},
    "steps": {"batch", "metrics", "models", "ops", "optim"},
    "parallel": {"batch", "config"},
    "data": {"batch", "cli", "config", "labels", "memory", "pictures", "report", "writing"},
    "checkpoints": {"names", "parallel"},
    "batch_size": set(),
    "board": set(),
    "loggers": {"board", "config", "writing"},
    "report": {"config", "loggers", "writing"},
    "skips": {"parallel", "writing"},
    "interruption": set(),
    "supervise": {"interruption"},
    "profile": set(),
    "history": {"report"},
    "lock": set(),
    "study": {"cli", "config", "lock", "writing"},
    "scores": {"losses", "metrics"},
    "scorecard": {"metrics", "pictures", "scores"},
    "uncertainty": {"checks"},
}
LIBRARY = {"decisions", "labels", "losses", "metrics", "models", "ops", "uncertainty"}
BELOW = set(ROOMS) | {"evaluate"}
ROOMS |= {
    "__init__": {"batch", *LIBRARY},
    "temperature": BELOW,
    "evaluate": BELOW,
    "pretrained": BELOW,
    "teachers": BELOW,
    "training_step": BELOW | {"teachers"},
}
TRAINING = BELOW | {"pretrained", "teachers", "training_step"}
ROOMS["ingredients"] = set(TRAINING)
TRAINING |= {"ingredients"}
ROOMS |= {
    "dry_run": TRAINING,
    "train": TRAINING | {"dry_run"},
    "range_test": TRAINING,
    "sweep": TRAINING,
}


def sources():
    """`(room, module name, syntax tree)` of every file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], ".".join(("jaxseg", *parts)), ast.parse(path.read_text())


def imported(module, tree):
    """The dotted names that a module imports anywhere, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join((*base, alias.name)) for alias in node.names)


def test_imported_names_are_found():
    """In every form that Python has for it."""
    source = """
import jaxseg.data.pipeline as p, os.path
from jaxseg import losses, Batch
def function():
    from jaxseg.train import main
    from . import unet
    from ..steps import TrainState
"""
    assert set(imported("jaxseg.models.unet", ast.parse(source))) == {
        *("jaxseg.data.pipeline", "os.path", "jaxseg.losses", "jaxseg.Batch"),
        *("jaxseg.train.main", "jaxseg.models.unet", "jaxseg.steps.TrainState"),
    }


def test_arrows_point_down():
    """A room imports those that the table allows, itself, and no private name of another."""
    wrong = []
    for room, module, tree in sources():
        assert room in ROOMS, f"{module} is in no room of the table; add it"
        for name in imported(module, tree):
            top, *rest = name.split(".")
            if top == "jaxseg" and (not rest or rest[0] != room):
                private = any(part.startswith("_") for part in rest)
                if not rest or rest[0] not in ROOMS[room] or private:
                    wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_nobody_may_import_train():
    assert not [room for room, allowed in ROOMS.items() if "train" in allowed]


def test_rooms_that_import_jax_and_numpy_alone():
    """Besides the standard library, and jaxtyping for those who check types."""
    allowed = {"jax", "numpy", "jaxtyping", "jaxseg", *sys.stdlib_module_names}
    found = {
        (module, name)
        for room, module, tree in sources()
        if room in ("checks", "decisions", "labels", "losses", "ops", "uncertainty")
        for name in imported(module, tree)
        if name.split(".")[0] not in allowed
    }
    assert found == set()


def typing_names(module):
    """The names of a module, and those that it imports for type checkers alone."""
    names = dict(vars(module))
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__name__, "exec"), names)
    return names


CHECKED = ("checks", *sorted(LIBRARY))


def functions():
    """`(module, name, function)` of all functions and methods of the rooms checked."""
    for room in CHECKED:
        package = importlib.import_module(f"jaxseg.{room}")
        infos = pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}.")
        for found in [info.name for info in infos] or [package.__name__]:
            module = importlib.import_module(found)
            for name, item in vars(module).items():
                if getattr(item, "__module__", None) != module.__name__:
                    continue
                if isinstance(item, types.FunctionType):
                    yield module, name, item
                elif isinstance(item, type):
                    for method, value in vars(item).items():
                        if isinstance(value, types.FunctionType) and value.__module__ == found:
                            yield module, f"{name}.{method}", value


FUNCTIONS = list(functions())


@pytest.mark.parametrize(
    ("module", "name", "function"), FUNCTIONS, ids=[f"{m.__name__}.{n}" for m, n, _ in FUNCTIONS]
)
def test_annotations_evaluate(module, name, function):
    """Shapes in annotations are strings until someone evaluates them; here someone does."""
    hints = typing.get_type_hints(function, typing_names(module))
    if name in sys.modules[".".join(module.__name__.split(".")[:2])].__all__:
        assert set(hints) == {*inspect.signature(function).parameters, "return"}


def test_annotations_of_classes_evaluate():
    for module in {module for module, _, _ in FUNCTIONS}:
        for item in vars(module).values():
            if isinstance(item, type) and item.__module__ == module.__name__:
                for annotation in vars(item).get("__annotations__", {}).values():
                    text = getattr(annotation, "__forward_arg__", annotation)
                    assert eval(text, typing_names(module)) is not None


def is_record(item):
    """A named tuple that only holds what functions return or take."""
    methods = [x for x in vars(item).values() if isinstance(x, types.FunctionType)]
    return hasattr(item, "_fields") and all(x.__module__ != item.__module__ for x in methods)


def test_public_functions_are_checked():
    names = {name.split(".")[0] for _, name, _ in FUNCTIONS}
    for room in CHECKED:
        module = importlib.import_module(f"jaxseg.{room}")
        assert {x for x in module.__all__ if not is_record(getattr(module, x))} <= names


def modules():
    """All modules of the package, imported; one that cannot be imported is an error."""

    def fail(name):
        raise ImportError(f"{name} cannot be imported")

    infos = pkgutil.walk_packages(jaxseg.__path__, "jaxseg.", onerror=fail)
    return [jaxseg, *(importlib.import_module(info.name) for info in infos)]


def test_examples_in_docstrings():
    """Every example of every module gives what it says, and there are many."""
    results = {module.__name__: doctest.testmod(module) for module in modules()}
    assert {name for name, result in results.items() if result.failed} == set()
    assert sum(result.attempted for result in results.values()) > 25
    for room in (getattr(jaxseg, name) for name in sorted(LIBRARY - {"models"})):
        for name in room.__all__:
            if name.startswith("upsample_") or is_record(getattr(room, name)):
                continue  # made by a function that has one
            examples = doctest.DocTestFinder().find(getattr(room, name))
            assert sum(len(example.examples) for example in examples) > 0, name
