"""The embedded nuclei with masks of 2 of the 12 tiles: mean teacher (Tarvainen and Valpola 2017).

The model's moving average teaches it what the other ten tiles show (arXiv:1703.01780).
docs/training.md compares it with what else can be done with them.

    python -m jaxseg.train --config=configs/nuclei_few.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim, Teacher


def get_config() -> Config:
    return Config(
        steps=200,
        batch_size=16,
        eval_batch_size=4,
        eval_every=50,
        checkpoint_every=50,
        log_every=10,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5)),
        data=Data(
            name="jaxseg_nuclei",
            train_split="train[:2]",
            eval_split="validation",
            classes=("background", "nucleus"),
            channels=1,
            image_size=(128, 128),
            unlabelled="train[2:]",
            unlabelled_share=0.5,
        ),
        # Teacher and model see the same places in other light and noise.
        augment=Augment(brightness=0.3, contrast=0.3, noise=0.2),
        model=Model(widths=(16, 32, 64), norm="batch"),
        optim=Optim(name="adam", learning_rate=3e-3, warmup_steps=20, ema_decay=0.98),
        # From nothing, since at first there is nothing to learn from it.
        teacher=Teacher(loss=(("kl_divergence", ((0, 0.0), (100, 1.0))),)),
    )
