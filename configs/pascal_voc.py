"""Twenty classes of objects: a folder in the layout of Pascal VOC 2012.

Unpack VOCtrainval_11-May-2012.tar and name the folder that holds JPEGImages, SegmentationClass and
ImageSets. Its masks are palette PNGs, with 255 on the outlines, which do not count.

    python -m jaxseg.train --config=configs/pascal_voc.py --config.data.root=VOCdevkit/VOC2012
"""

from jaxseg.config import Augment, Config, Data, Model, Optim

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)


def get_config() -> Config:
    return Config(
        steps=30_000,
        batch_size=16,
        eval_batch_size=16,
        eval_every=1_000,
        checkpoint_every=500,
        log_every=50,
        loss=(("cross_entropy", 1.0), ("kl_divergence", 0.5, {"label_smoothing": 0.1})),
        data=Data(
            name="folder",
            root="VOCdevkit/VOC2012",
            train_split="train",
            eval_split="val",
            image="JPEGImages",
            label="SegmentationClass",
            listing="ImageSets/Segmentation/{split}.txt",
            classes=CLASSES,
            ignore_label=255,
            channels=3,
            image_size=(512, 512),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            threads=8,
        ),
        augment=Augment(
            crop_size=(384, 384),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.5, 2.0),
            brightness=0.2,
            contrast=0.2,
            cutmix=0.5,
        ),
        model=Model(widths=(32, 64, 128, 256, 512), norm="batch"),
        optim=Optim(name="rmsprop", learning_rate=1e-3, warmup_steps=500, weight_decay=1e-4),
    )
