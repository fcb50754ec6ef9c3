"""Your own images: a folder with images and masks of the same names. Copy this page and edit it.

    data/images/a.png   data/masks/a.png
    data/images/b.jpg   data/masks/b.png   ...

Images are PNG, JPEG or TIFF of 8 bits; masks are grey or palette images whose values are the class
indices, and 255 where a pixel should not count. The first 80 % of the names are for training.

    python -m jaxseg.train --config=configs/folder.py --config.data.root=data
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=2_000,
        batch_size=8,
        eval_batch_size=8,
        eval_every=200,
        checkpoint_every=200,
        log_every=20,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5)),
        data=Data(
            name="folder",
            root="data",
            train_split="[:80%]",
            eval_split="[80%:]",
            image="images",
            label="masks",
            classes=("background", "object"),
            ignore_label=255,
            channels=3,
            image_size=(256, 256),
        ),
        augment=Augment(
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.8, 1.25),
            brightness=0.1,
            contrast=0.1,
        ),
        model=Model(widths=(32, 64, 128, 256), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=100, weight_decay=1e-4),
    )
