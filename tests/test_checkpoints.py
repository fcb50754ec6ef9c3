"""Checkpoints come back bit for bit, the right ones are kept, and damage is found, never loaded."""

import ast
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxseg
from jaxseg.checkpoints import SCORE, CheckpointError, Checkpoints
from jaxseg.optim import make_optimizer
from jaxseg.steps import TrainState

CONFIG = jaxseg.config.Optim(weight_decay=0.1, warmup_steps=2)
STEPS = (3, 6, 9)  # scored so that all three are kept: the best, and the latest two


# Tensorstore goes on reading other files, for an event loop that orbax has closed.
TENSORSTORE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_state(step: int, *, ema: bool = False, width: int = 4) -> TrainState:
    """A state of a run's form, with other numbers at each step, signed zero and all."""
    rng = np.random.default_rng(step)
    params = {
        # Large enough to have a chunk of its own, which is where orbax restores flipped bits.
        "conv": {"kernel": rng.normal(size=(3, 3, 64, width)).astype(np.float32)},
        "norm": {"bias": np.float32([-0.0, 1e-40, 3.4e38, rng.normal()])},
    }
    batch_stats = {"norm": {"mean": rng.normal(size=width).astype(np.float32)}}
    half = jax.tree.map(lambda x: x * np.float32(0.5), (params, batch_stats))
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=make_optimizer(CONFIG, 10).init(jax.tree.map(lambda x: x + 1, params)),
        ema=half if ema else None,
    )


def template(**options):
    return jax.eval_shape(lambda: make_state(0, **options))


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


def open_checkpoints(folder, **options):
    (folder / "checkpoints").mkdir(exist_ok=True)
    return Checkpoints(folder / "checkpoints", **options)


def on_disk(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run's checkpoints at steps 3 (the best), 6 and 9."""
    folder = tmp_path_factory.mktemp("run")
    saved = open_checkpoints(folder, keep_latest=2)
    for step in STEPS:
        saved.save(step, make_state(step), {SCORE: 0.5 - step / 64, "val/loss": float(step)})
    saved.close()
    assert on_disk(folder) == list(STEPS)
    return folder


@pytest.fixture
def run(written, tmp_path):
    """A copy of it to damage."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("ema", [False, True], ids=["without_ema", "with_ema"])
def test_round_trip(tmp_path, ema):
    """Parameters, statistics, optimizer state and moving average come back, structure and bits."""
    saved = open_checkpoints(tmp_path)
    saved.save(7, make_state(7, ema=ema), {SCORE: 0.25, "val/iou/nucleus": None})
    saved.close()
    again = open_checkpoints(tmp_path)
    step, state = again.restore_latest(template(ema=ema))
    assert step == 7
    assert_same_bits(state, make_state(7, ema=ema))
    assert isinstance(state, TrainState)
    assert (state.ema is None) == (not ema)
    assert again.scores(7) == {SCORE: 0.25, "val/iou/nucleus": None}
    # The restored state goes on: the optimizer takes it for its own.
    grads = jax.tree.map(np.ones_like, state.params)
    updates, _ = make_optimizer(CONFIG, 10).update(grads, state.opt_state, state.params)
    optax.apply_updates(state.params, updates)
    again.close()


def test_what_was_saved_is_the_state_at_the_call(tmp_path):
    """Donated and overwritten buffers can't reach the checkpoint that is written behind."""
    state = make_state(1)
    device = jax.tree.map(lambda x: jnp.asarray(np.array(x)), state.params)
    host = {"mean": np.arange(4, dtype=np.float32)}
    saved = open_checkpoints(tmp_path)
    saved.save(1, state._replace(params=device, batch_stats=host))
    host["mean"][:] = -1
    for leaf in jax.tree.leaves(device):
        leaf.delete()
    saved.wait()
    wanted = state._replace(batch_stats={"mean": np.arange(4, dtype=np.float32)})
    step, found = saved.restore_latest(jax.eval_shape(lambda: wanted))
    assert step == 1
    assert_same_bits(found, wanted)
    saved.close()


def test_wait_makes_it_visible_to_others(tmp_path):
    """After wait() another process finds the checkpoint, without the first one closing."""
    first = open_checkpoints(tmp_path)
    assert first.latest_step() is None
    for step in (1, 2):
        first.save(step, make_state(step))
        first.wait()
        assert on_disk(tmp_path) == [step]  # no temporary directory is left
        second = open_checkpoints(tmp_path)
        assert second.latest_step() == step
        assert_same_bits(second.restore_latest(template())[1], make_state(step))
        second.close()
    first.close()


@pytest.mark.parametrize(
    ("keep", "scores", "kept", "best"),
    [
        (1, [0.5, 0.9, 0.7, 0.6], [2, 4], 2),
        (2, [0.5, 0.9, 0.7, 0.6, 0.8], [2, 4, 5], 2),
        (2, [0.1, 0.2, 0.3], [2, 3], 3),
        (3, [0.1, 0.2, 0.3], [1, 2, 3], 3),
        (1, [0.0, None, None], [1, 3], 1),
        (2, [None, 0.0, None, None, None], [2, 4, 5], 2),
        (2, [None, None, None], [2, 3], None),
        (1, [0.7, "absent", "absent"], [1, 3], 1),
    ],
)
def test_best_and_latest_are_kept(tmp_path, keep, scores, kept, best):
    """The latest N, and the best by validation score. One without scores is never the best."""

    def values(score):
        return score if score is None else {SCORE: None if score == "absent" else score}

    saved = open_checkpoints(tmp_path, keep_latest=keep)
    for step, score in enumerate(scores[:-1], 1):
        saved.save(step, make_state(step), values(score))
    saved.close()
    # As after a restart: what earlier ones scored is known from the disk.
    saved = open_checkpoints(tmp_path, keep_latest=keep)
    saved.save(len(scores), make_state(len(scores)), values(scores[-1]))
    saved.wait()
    assert on_disk(tmp_path) == kept
    assert saved.best_step() == best
    assert saved.latest_step() == len(scores)
    step, state = saved.restore_best(template())
    assert step == (best or len(scores))  # where none is scored, the latest
    assert_same_bits(state, make_state(step))
    saved.close()


def test_nothing_to_restore(tmp_path):
    """A fresh run starts anew; scoring one that has no checkpoints says so."""
    saved = open_checkpoints(tmp_path)
    assert saved.restore_latest(template()) is None
    assert saved.best_step() is None
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        saved.restore_best(template())
    saved.close()
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        Checkpoints(tmp_path / "nowhere").restore_best(template())


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path, where):
    """Flips one bit, at a place from 0 (the first) to 1 (the last)."""
    content = bytearray(path.read_bytes())
    bit = round(where * (8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def check_after_damage(folder, caplog, what):
    """Newest or the one before, bit for bit; the latter said and set aside; and it goes on."""
    caplog.clear()
    saved = open_checkpoints(folder, keep_latest=2)
    step, state = saved.restore_latest(template())
    assert_same_bits(state, make_state(step))
    said = [x.getMessage() for x in caplog.records if "is damaged" in x.getMessage()]
    if step == 9:
        assert not said, what
        assert not (folder / "damaged").exists(), what
    else:
        assert step == 6, what
        assert len(said) == 1, what
        assert said[0].startswith("Checkpoint 9 "), what
        assert [path.name for path in (folder / "damaged").iterdir()] == ["9"], what
        assert on_disk(folder) == [3, 6], what
    for kept in {3, 6, step}:
        wanted = {SCORE: 0.5 - kept / 64, "val/loss": float(kept)}
        # Scores may be lost with their file, but must not be other ones.
        assert saved.scores(kept) in (wanted, None), what
    assert saved.best_step() == 3, what
    saved.save(12, make_state(12), {SCORE: 0.0, "val/loss": 12.0})
    saved.close()
    assert on_disk(folder) == [3, step, 12], what
    return step


DAMAGES = {
    "deleted": remove,
    "truncated": truncate,
    "emptied": empty,
    "first_bit": lambda path: flip(path, 0.0),
    "early_bit": lambda path: flip(path, 0.31),
    "late_bit": lambda path: flip(path, 0.77),
    "last_bit": lambda path: flip(path, 1.0),
}


@pytest.mark.parametrize("part", ["state", "checksums", "metrics", "the_rest"])
@pytest.mark.parametrize("damage", DAMAGES)
@TENSORSTORE
def test_damage_to_any_file_falls_back(written, tmp_path, caplog, damage, part):
    """Whichever file of the newest checkpoint is damaged, what is restored was saved."""
    newest = written / "checkpoints" / "9"
    files = newest.iterdir() if part == "the_rest" else files_of(newest / part)
    outcomes, failures = {}, []
    for number, path in enumerate(path for path in files if path.is_file()):
        folder = tmp_path / str(number)
        shutil.copytree(written, folder)
        name = str(path.relative_to(newest))
        DAMAGES[damage](folder / "checkpoints" / "9" / name)
        try:
            outcomes[name] = check_after_damage(folder, caplog, f"{name} {damage}")
        except Exception as error:  # of any kind: all files are tried before the test fails
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures)
    # Damage to what holds information is found; a flipped bit may be in a name that nobody reads.
    if part == "state" and "bit" not in damage:
        assert outcomes["state/_METADATA"] == 6
    if part == "checksums":
        assert outcomes["checksums/metadata"] == 6


def test_a_changed_array_is_not_believed(written, tmp_path, caplog):
    """Flipped bits in the largest chunk, most of which orbax restores without a word."""
    newest = written / "checkpoints" / "9"
    path = max(files_of(newest), key=lambda path: path.stat().st_size)
    found = []
    for number in range(8):
        folder = tmp_path / str(number)
        shutil.copytree(written, folder)
        flip(folder / "checkpoints" / "9" / path.relative_to(newest), (number + 0.5) / 8)
        found.append(check_after_damage(folder, caplog, number))
    assert found.count(6) >= 4


@pytest.mark.parametrize("name", ["state", "checksums", "metrics"])
def test_missing_directory_falls_back(run, caplog, name):
    """A whole part of the newest checkpoint is gone."""
    shutil.rmtree(run / "checkpoints" / "9" / name)
    step = check_after_damage(run, caplog, name)
    assert step == 6


def test_emptied_directory_falls_back(run, caplog):
    """The newest checkpoint's directory is there, with nothing in it."""
    shutil.rmtree(run / "checkpoints" / "9")
    (run / "checkpoints" / "9").mkdir()
    assert check_after_damage(run, caplog, "all") == 6


def test_a_changed_score_is_not_believed(run):
    """A flipped bit in the stored score can't make another checkpoint the best one."""
    path = run / "checkpoints" / "9" / "metrics" / "metrics"
    text = path.read_text()
    score = json.dumps(0.5 - 9 / 64)  # 0.359375
    assert score in text
    path.write_text(text.replace(score, "0.759375"))  # "3" and "7" differ in one bit
    saved = open_checkpoints(run, keep_latest=2)
    saved.restore_latest(template())
    assert saved.best_step() == 3
    saved.close()


@TENSORSTORE
@pytest.mark.exhaustive
def test_any_flipped_bit_falls_back(written, tmp_path, caplog):
    """As above, with a flipped bit in every 41st byte of every file."""
    newest = written / "checkpoints" / "9"
    failures = []
    for path in files_of(newest):
        size = path.stat().st_size
        for byte in range(0, size, 41):
            folder = tmp_path / "run"
            shutil.copytree(written, folder)
            name = str(path.relative_to(newest))
            flip(folder / "checkpoints" / "9" / name, (8 * byte + byte % 8) / (8 * size - 1))
            try:
                check_after_damage(folder, caplog, f"{name} byte {byte}")
            except Exception as error:
                failures.append(f"{name} byte {byte}: {type(error).__name__}: {str(error)[:200]}")
            shutil.rmtree(folder)
    assert not failures, "\n".join(failures)


def test_two_damaged_ones_fall_back_twice(run, caplog):
    """The newest whole one may be far back; a second damaged 9 replaces the first set aside."""
    (run / "damaged" / "9").mkdir(parents=True)
    for step in (6, 9):
        truncate(run / "checkpoints" / str(step) / "checksums" / "metadata")
    saved = open_checkpoints(run, keep_latest=2)
    step, state = saved.restore_latest(template())
    assert step == 3
    assert_same_bits(state, make_state(3))
    saved.close()
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["6", "9"]
    assert (run / "damaged" / "9" / "state").is_dir()
    assert sum("is damaged" in x.getMessage() for x in caplog.records) == 2


def test_all_damaged_is_an_error(run):
    """With no whole checkpoint left nothing starts over unasked; asked again, it does."""
    for step in STEPS:
        truncate(run / "checkpoints" / str(step) / "checksums" / "metadata")
    saved = open_checkpoints(run, keep_latest=2)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* is whole.*damaged"):
        saved.restore_latest(template())
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["3", "6", "9"]
    assert saved.restore_latest(template()) is None
    saved.close()


def test_damaged_best_is_an_error(run):
    """Scoring never takes another checkpoint for the best one."""
    truncate(run / "checkpoints" / "3" / "checksums" / "metadata")
    saved = open_checkpoints(run, keep_latest=2)
    with pytest.raises(CheckpointError, match=r"checkpoint 3 .* is damaged"):
        saved.restore_best(template())
    saved.close()
    assert on_disk(run) == list(STEPS)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"width": 8}, r"conv\.kernel"), ({"ema": True}, r"ema\."), ({"width": 2}, r"kernel|mean")],
)
def test_other_config_is_an_error(run, options, named):
    """A whole checkpoint of another model names the array that differs, and stays in place."""
    saved = open_checkpoints(run, keep_latest=2)
    for restore in (saved.restore_latest, saved.restore_best):
        with pytest.raises(CheckpointError, match=named) as caught:
            restore(template(**options))
        assert "\n" not in str(caught.value)
    saved.close()
    assert on_disk(run) == list(STEPS)
    assert not (run / "damaged").exists()


def test_orbax_is_imported_in_one_file():
    """Whoever replaces orbax edits checkpoints.py alone."""
    importers = set()
    package = pathlib.Path(jaxseg.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [x.name for x in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            if any(module.split(".")[0] == "orbax" for module in modules):
                importers.add(str(path.relative_to(package)))
    assert importers == {"checkpoints.py"}
