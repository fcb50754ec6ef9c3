"""Street scenes: Cityscapes through tensorflow-datasets, the 19 classes of its benchmark.

The data need an account: put leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from the
Cityscapes site into <tfds directory>/downloads/manual; tfds says so too. Its masks hold the 34
label ids; label_map gives the train ids, and what the benchmark leaves out does not count.

    python -m jaxseg.train --config=configs/cityscapes.py
"""

from jaxseg.config import Augment, Config, Data, Model, Optim

CLASSES = {  # name: label id, in the order of the train ids
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def get_config() -> Config:
    train_ids = {label_id: i for i, label_id in enumerate(CLASSES.values())}
    return Config(
        steps=40_000,
        batch_size=16,
        eval_batch_size=8,
        eval_every=2_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("relative_entropy", 0.5)),
        data=Data(
            name="cityscapes",
            train_split="train",
            eval_split="validation",
            image="image_left",
            label="segmentation_label",
            classes=tuple(CLASSES),
            label_map=tuple((label_id, train_ids.get(label_id, 255)) for label_id in range(34)),
            ignore_label=255,
            channels=3,
            image_size=(1024, 2048),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            threads=16,
        ),
        augment=Augment(
            crop_size=(512, 1024),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=0.0,
            scale=(0.5, 2.0),
            brightness=0.2,
            contrast=0.2,
        ),
        model=Model(widths=(32, 64, 128, 256, 512), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=1_000, weight_decay=1e-4),
    )
