"""Things and stuff: COCO 2017 panoptic as 133 classes, through tensorflow-datasets.

tfds downloads the data (about 20 GB) at the first start. A mask holds the id of a segment in its
colours, and each segment its class; what is none, and crowds, do not count (Kirillov et al. 2019,
arXiv:1801.00868). Annotations of one's own in COCO's JSON are read from a folder: name the file in
data.label.

    python -m jaxseg.train --config=configs/coco_panoptic.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=160_000,
        batch_size=32,
        eval_batch_size=16,
        eval_every=5_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("kl_divergence", 0.5, {"label_smoothing": 0.1})),
        data=Data(
            name="coco/2017_panoptic",
            train_split="train",
            eval_split="validation",
            image="image",
            label="panoptic_image",
            masks="panoptic",
            # Their names are in panoptic_coco_categories.json of the data set, in this order.
            classes=tuple(f"class {number}" for number in range(133)),
            ignore_label=-1,
            channels=3,
            image_size=(640, 640),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            threads=16,
        ),
        augment=Augment(
            crop_size=(512, 512),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=0.0,
            scale=(0.5, 2.0),
            brightness=0.2,
            contrast=0.2,
            copy_paste=0.2,
            mosaic=0.2,
        ),
        model=Model(widths=(32, 64, 128, 256, 512), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=1_000, weight_decay=1e-4),
    )
