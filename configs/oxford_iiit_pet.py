"""Pets, their outlines and their surroundings: Oxford-IIIT Pet through tensorflow-datasets.

tfds downloads the data (800 MB) at the first start. There is no validation split: a tenth of the
training images is kept for it, and "test" remains for the end.

    python -m jaxseg.train --config=configs/oxford_iiit_pet.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=20_000,
        batch_size=32,
        eval_batch_size=32,
        eval_every=1_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("kl_divergence", 0.5, {"label_smoothing": 0.1})),
        data=Data(
            name="oxford_iiit_pet",
            train_split="train[:90%]",
            eval_split="train[90%:]",
            image="image",
            label="segmentation_mask",
            classes=("pet", "background", "outline"),
            label_map=((1, 0), (2, 1), (3, 2)),
            channels=3,
            image_size=(256, 256),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            threads=8,
        ),
        augment=Augment(
            crop_size=(224, 224),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.75, 1.5),
            translate=0.1,  # pets are mostly in the middle
            brightness=0.2,
            contrast=0.2,
            cutout=0.3,
        ),
        model=Model(widths=(32, 64, 128, 256, 512), norm="batch", dropout=0.1),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=500, weight_decay=1e-4),
    )
