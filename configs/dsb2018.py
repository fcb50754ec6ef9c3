"""Nuclei in microscopes of many kinds: Data Science Bowl 2018, as inside and border of each.

images/*.png are grey, RGB or RGBA, of many sizes; labels/*.png have 16 bits, an id for each nucleus
and 0 elsewhere. A border of one pixel between what touches lets connected components tell nuclei
apart again (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7).

    python -m jaxseg.train --config=configs/dsb2018.py --config.data.root=dsb2018
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=4_000,
        batch_size=16,
        eval_batch_size=1,
        eval_every=2_000,
        checkpoint_every=100,
        log_every=20,
        loss=(("cross_entropy", 1.0), ("dice", 1.0)),
        data=Data(
            name="folder",
            root="dsb2018",
            train_split="[:80%]",
            eval_split="[80%:]",
            image="images",
            label="labels",
            split_by="hash",
            masks="borders",
            classes=("background", "nucleus", "border"),
            border=1,
            channels=3,
            image_size=(1040, 1392),  # the largest; evaluation takes whole images
            patch_size=(192, 192),
            foreground=0.5,
            value_percentiles=(0.5, 99.5),  # each image's own, as microscopes differ
            mean=(0.277, 0.264, 0.292),
            std=(0.352, 0.342, 0.372),
            cache="runs/cache",
        ),
        augment=Augment(
            crop_size=(128, 128),
            flip_horizontal=True,
            flip_vertical=True,
            rotate90=True,
            rotate=15.0,
            scale=(0.7, 1.4),
            elastic=2.0,
            elastic_spacing=32,
            brightness=0.2,
            contrast=0.2,
            noise=0.1,
        ),
        model=Model(widths=(16, 32, 64, 128), norm="batch"),
        optim=Optim(name="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-4),
    )
