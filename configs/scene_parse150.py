"""Scenes of 150 classes: MIT Scene Parsing, of ADE20K, through tensorflow-datasets.

tfds downloads the data (about 1 GB) at the first start. Masks are 0 for what is none of the
classes, and 1 to 150 for these: label_map moves them to 0 to 149, and 0 does not count (Zhou et al.
2017, doi:10.1109/CVPR.2017.544).

    python -m jaxseg.train --config=configs/scene_parse150.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=80_000,
        batch_size=16,
        eval_batch_size=16,
        eval_every=4_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5, {"label_smoothing": 0.1})),
        data=Data(
            name="scene_parse150",
            train_split="train",
            eval_split="test",
            image="image",
            label="annotation",
            # Their names are in objectInfo150.txt of the data set, in this order.
            classes=tuple(f"class {number}" for number in range(1, 151)),
            label_map=((0, 255), *((value, value - 1) for value in range(1, 151))),
            ignore_label=255,
            channels=3,
            image_size=(512, 512),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            threads=16,
            unreadable="skip",
        ),
        augment=Augment(
            crop_size=(384, 384),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=0.0,
            scale=(0.5, 2.0),
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
            hue=0.05,
            classmix=0.5,
        ),
        model=Model(widths=(32, 64, 128, 256, 512), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=1_000, weight_decay=1e-4),
    )
