"""What training steps cost, as XLA counts and plans it: that needs no clock.

`python tests/test_cost.py` records it for the version of jax that is installed, in cost.json.
"""

import dataclasses
import json
import pathlib

import jax
import pytest

from jaxseg import data, optim, parallel, training_step
from jaxseg.config import Config, Data, Model
from jaxseg.evaluate import make_init, make_model

RECORD = pathlib.Path(__file__).parent / "cost.json"
# The step of the defaults, and one most of which is in tiles.
CONFIGS = {
    "default": Config(),
    "wide": Config(model=Model(widths=(64, 128, 256)), data=Data(image_size=(64, 64))),
}
RENEW = "if that is meant, `python tests/test_cost.py` renews the record"


def cost(config):
    """The FLOPs and the bytes accessed of a compiled step on one CPU; of a loop those of a turn.

    And the bytes that it needs at once, besides state and batch.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])

    def compiled(step, *, donate_state, constants):
        return jax.jit(step, donate_argnums=0 if donate_state else ())

    def laid(tree, *batch):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype, sharding=device), tree
        )

    alone = parallel.make_runner("shard_map")._replace(axis_name=None, compile=compiled)
    model, optimizer = make_model(config), optim.make_optimizer(config.optim, config.steps)
    step = training_step.jitted(config, model, alone, optimizer)
    state = jax.eval_shape(make_init(config, model))
    batch = data.example_spec(config.data, training=True)
    program = step.lower(laid(state), laid(batch, config.batch_size)).compile()
    analysis, memory = program.cost_analysis(), program.memory_analysis()
    found = {name: analysis[name] for name in ("flops", "bytes accessed")}
    return found | {"temporary bytes": memory.temp_size_in_bytes}


def check(found, recorded):
    """Fails if anything has grown by more than a twentieth."""
    for name, before in recorded.items():
        assert found[name] <= 1.05 * before, (
            f"the training step has {found[name]:.4g} {name}, "
            f"{found[name] / before - 1:.1%} more than recorded; {RENEW}"
        )


def recorded(name):
    found = json.loads(RECORD.read_text()).get(jax.__version__)
    if found is None:
        pytest.skip(f"{RECORD.name} has no record for jax {jax.__version__}, which counts its own")
    return found[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_costs_no_more_than_recorded(name):
    check(cost(CONFIGS[name]), recorded(name))


def test_a_step_that_has_grown_is_noticed():
    """By each of the numbers; here there is another image for every four."""
    before = recorded("default")
    size = CONFIGS["default"].batch_size
    found = cost(dataclasses.replace(CONFIGS["default"], batch_size=size + size // 4))
    for name in before:
        with pytest.raises(AssertionError, match=f"{name}, .*% more than recorded; if that is me"):
            check({**before, name: found[name]}, before)


def main():
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    records[jax.__version__] = {name: cost(config) for name, config in CONFIGS.items()}
    RECORD.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
    print(RECORD.read_text(), end="")


if __name__ == "__main__":
    main()
