"""Streets from a driving car: CamVid in the split of SegNet, 11 classes, a folder of PNG and JPEG.

Its folders are train, trainannot, val and valannot; the masks hold class indices, and 11 where a
pixel does not count (Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005).

    python -m jaxseg.train --config=configs/camvid.py --config.data.root=CamVid
"""

from jaxseg.config import Augment, Config, Data, Model, Optim

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
)


def get_config() -> Config:
    return Config(
        steps=4_000,
        batch_size=8,
        eval_batch_size=8,
        eval_every=500,
        checkpoint_every=100,
        log_every=20,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5, {"label_smoothing": 0.1})),
        data=Data(
            name="folder",
            root="CamVid",
            train_split="train",
            eval_split="val",
            image="{split}",
            label="{split}annot",
            classes=CLASSES,
            ignore_label=11,
            channels=3,
            image_size=(360, 480),
            mean=(0.412, 0.425, 0.432),
            std=(0.307, 0.311, 0.307),
            cache="runs/cache",
        ),
        augment=Augment(
            crop_size=(240, 320),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=5.0,
            scale=(0.5, 2.0),
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
        ),
        model=Model(widths=(16, 32, 64, 128, 256), norm="batch"),
        optim=Optim(name="adamw", learning_rate=2e-3, warmup_steps=200, weight_decay=1e-4),
    )
