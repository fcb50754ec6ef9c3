"""Land cover from the air: ISPRS Vaihingen, a folder whose masks are a colour for each class.

Tiles have near infrared, red and green, and 9 cm a pixel. Unpack `top` into images/, and the masks
of ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE, which have the same names, into masks/
(Rottensteiner et al. 2012, doi:10.5194/isprsannals-I-3-293-2012).

    python -m jaxseg.train --config=configs/vaihingen.py --config.data.root=Vaihingen
"""

from jaxseg.config import Augment, Config, Data, Model, Optim

COLOURS = {
    "impervious surface": (255, 255, 255),
    "building": (0, 0, 255),
    "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0),
    "car": (255, 255, 0),
    "clutter": (255, 0, 0),
}


def get_config() -> Config:
    return Config(
        steps=10_000,
        batch_size=16,
        eval_batch_size=2,
        eval_every=1_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("dice", 1.0)),
        data=Data(
            name="folder",
            root="Vaihingen",
            train_split="[:80%]",
            eval_split="[80%:]",
            image="images",
            label="masks",
            classes=tuple(COLOURS),
            colours=tuple(COLOURS.values()),
            channels=3,
            image_size=(1536, 1536),  # tiles are about 2500x2000, and scaled down to fit
            threads=8,
            cache="runs/cache",
        ),
        augment=Augment(
            crop_size=(512, 512),
            flip_horizontal=True,
            flip_vertical=True,
            rotate90=True,
            rotate=45.0,
            scale=(0.75, 1.5),
            shear=5.0,
            brightness=0.2,
            contrast=0.2,
            blur=1.0,
        ),
        model=Model(widths=(32, 64, 128, 256), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=500, weight_decay=1e-4),
    )
