"""The search for the largest batch asks little and never takes too much."""

import dataclasses

import pytest

import jaxseg.config
from jaxseg import batch_size, data, evaluate, ingredients, parallel, training_step
from jaxseg.config import Augment, Config, Model
from jaxseg.train import train


def search(needs, limit, **options):
    asked = []

    def counted(size):
        asked.append(size)
        return needs(size)

    return batch_size.largest(counted, limit, **options), asked


@pytest.mark.parametrize("limit", [110, 119, 120, 139, 140, 180, 4000])
def test_of_what_grows_evenly(limit):
    """As by trying all, with three questions at most."""
    found, asked = search(lambda size: 100 + 10 * size, limit, unit=1, most=100)
    wanted = max(size for size in (1, 2, 4, 8, 16, 32, 64) if 100 + 10 * size <= limit)
    assert found == wanted
    assert len(asked) == len(set(asked)) <= 3


def test_of_what_grows_faster_than_guessed():
    found, asked = search(lambda size: size**2, 300, unit=2, most=10**6)
    assert found == 16
    assert asked == [2, 4, 32, 16]


def test_at_most_the_examples():
    assert search(lambda size: size, 10**9, unit=8, most=100) == (64, [8, 16, 64])
    assert search(lambda size: size, 10**9, unit=8, most=15) == (8, [8])
    assert search(lambda size: size, 10**9, unit=8, most=3) == (8, [8])


def test_too_large():
    with pytest.raises(ValueError, match=r"^a batch of 8 needs 3 MiB of a device, but it has 2; "):
        search(lambda size: 3 * 2**20, 2 * 2**20, unit=8, most=100)


def test_of_a_run(monkeypatch):
    """As the config says, from the plan of the compiled step."""
    config = Config(batch_size="auto", model=Model(widths=(4, 8)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=(16, 16)))
    runner = parallel.make_runner("shard_map")
    model = evaluate.make_model(config, axis_name=runner.axis_name)
    # All 12 images of the demo at most, and one for each of 8 devices at least.
    assert training_step.largest_batch(config, model, runner) == 8
    monkeypatch.setattr(parallel, "memory", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"^a batch of 8 needs \d+ MiB of a device, but it has 0; "
    ):
        training_step.largest_batch(config, model, runner)


def test_room_for_the_batches_that_follow(monkeypatch):
    """A step of 100 bytes, and three batches besides: of images, labels and where, and sizes."""
    config = Config(batch_size="auto", model=Model(widths=(4, 8)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=(16, 16)))
    runner = parallel.make_runner("shard_map")
    model = evaluate.make_model(config, axis_name=runner.axis_name)
    monkeypatch.setattr(training_step, "planned", lambda *_: training_step.Plan(None, 60, 40))
    batch = 16 * 16 * 3 + 2 * 4  # on each device
    for limit, fits in ((100 + 3 * batch, True), (100 + 3 * batch - 1, False)):
        monkeypatch.setattr(parallel, "memory", lambda limit=limit: limit)
        if fits:
            assert training_step.largest_batch(config, model, runner) == 8
        else:
            with pytest.raises(ValueError, match="a batch of 8 needs"):
                training_step.largest_batch(config, model, runner)


def test_evaluation_has_to_fit(monkeypatch):
    """With "auto", where a training step does; else the user has chosen."""
    config = Config(batch_size="auto", model=Model(widths=(4, 8)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=(16, 16)))
    monkeypatch.setattr(training_step, "largest_batch", lambda *_: 8)
    monkeypatch.setattr(parallel, "memory", lambda: 2**14)
    with pytest.raises(
        ValueError, match=r"^an evaluation needs \d+ MiB of a device, but it has 0; make eval_bat"
    ):
        ingredients.gather(config)
    ingredients.gather(dataclasses.replace(config, batch_size=8))


def test_what_can_not_be_used_is_refused_before_data_is_read(monkeypatch):
    config = Config(batch_size="auto", model=Model(widths=(4, 8)))
    config = dataclasses.replace(config, augment=Augment(scale=(2.0, 1.0)))
    monkeypatch.setattr(data, "open_source", lambda *_: pytest.fail("data is read"))
    with pytest.raises(ValueError, match=r"^augment.scale is \(2.0, 1.0\)"):
        ingredients.gather(config)


def test_what_a_run_keeps(tmp_path):
    """The number with which it began, and none before it has a checkpoint."""
    config = Config(batch_size="auto", steps=2, eval_every=2, pictures=0)
    config.optim.warmup_steps = 1
    config.data.image_size, config.model.widths = (16, 16), (4, 8)
    jaxseg.config.write(tmp_path / "config.json", config)
    for _ in range(2):
        train(config, tmp_path)
        assert jaxseg.config.read(tmp_path / "config.json").batch_size == 8
