"""Nuclei in the embedded microscopy image: what runs without --config. About a minute on 2 cores.

python -m jaxseg.train --config=configs/nuclei.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        seed=0,
        steps=120,
        batch_size=8,
        eval_batch_size=4,
        eval_every=30,
        checkpoint_every=30,
        log_every=10,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5)),
        data=Data(
            name="jaxseg_nuclei",
            train_split="train",
            eval_split="validation",
            image="image",
            label="segmentation_mask",
            classes=("background", "nucleus"),
            channels=1,
            image_size=(128, 128),
        ),
        # No free rotation or scale: with these, which interpolate, the validation score was lower.
        augment=Augment(
            flip_horizontal=True,
            flip_vertical=True,
            rotate90=True,
            rotate=0.0,
            scale=(1.0, 1.0),
            brightness=0.1,
            contrast=0.1,
        ),
        model=Model(widths=(16, 32, 64), norm="batch"),
        optim=Optim(name="adam", learning_rate=3e-3, warmup_steps=20, clip_norm=1.0),
    )
