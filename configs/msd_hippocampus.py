"""Volumes: the two parts of the hippocampus in MRI, task 4 of the Medical Segmentation Decathlon.

images/*.nii.gz and labels/*.nii.gz, about 35x50x36 pixels of 1 mm. The values of MRI have no unit,
so that each volume is stretched between its own percentiles (Antonelli et al. 2022,
doi:10.1038/s41467-022-30695-9).

    python -m jaxseg.train --config=configs/msd_hippocampus.py --config.data.root=Task04_Hippocampus
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=1_000,
        batch_size=8,
        eval_batch_size=4,
        eval_every=250,
        checkpoint_every=50,
        log_every=10,
        loss=(("cross_entropy", 1.0), ("dice", 1.0)),
        data=Data(
            name="folder",
            root="Task04_Hippocampus",
            train_split="[-1/5]",
            eval_split="[1/5]",
            image="images",
            label="labels",
            split_by="hash",
            classes=("background", "anterior", "posterior"),
            channels=1,
            bits=16,
            value_percentiles=(0.5, 99.5),
            spacing=(1.0, 1.0, 1.0),
            image_size=(48, 64, 48),
            patch_size=(32, 40, 32),
            foreground=0.5,
            mean=(0.531,),
            std=(0.255,),
            cache="runs/cache",
        ),
        augment=Augment(
            crop_size=(),
            flip_horizontal=False,
            flip_vertical=False,
            flip_depth=False,  # left and right are told apart by position
            rotate90=False,
            rotate=10.0,
            scale=(0.85, 1.2),
            brightness=0.1,
            contrast=0.1,
            gamma=0.3,
        ),
        model=Model(widths=(16, 32, 64), norm="group"),
        optim=Optim(name="adamw", learning_rate=2e-3, warmup_steps=50, weight_decay=1e-4),
    )
