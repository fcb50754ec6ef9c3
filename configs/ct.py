"""CT volumes of patients who have several scans: an organ and its tumours, in Hounsfield units.

    data/images/patient07_scan1.nii.gz   data/labels/patient07_scan1.nii.gz
    data/images/patient07_scan2.nii.gz   data/labels/patient07_scan2.nii.gz   ...

All scans of a patient are in one of five parts, of which the first is evaluated. Values have a
unit, so that all volumes are stretched alike: the window of soft tissue, 400 wide about 40.

    python -m jaxseg.train --config=configs/ct.py --config.data.root=data
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=10_000,
        batch_size=8,
        eval_batch_size=1,
        eval_every=1_000,
        checkpoint_every=200,
        log_every=20,
        loss=(("cross_entropy", 1.0), ("dice", 1.0)),
        data=Data(
            name="folder",
            root="data",
            train_split="[-1/5]",
            eval_split="[1/5]",
            image="images",
            label="labels",
            split_by="hash",
            group=r"^patient\d+",
            classes=("background", "organ", "tumour"),
            channels=1,
            value_range=(-160.0, 240.0),
            spacing=(1.5, 1.5, 2.0),
            image_size=(320, 320, 256),  # the largest; evaluation takes whole volumes
            patch_size=(64, 64, 64),
            foreground=0.5,
            mean=(0.4,),
            std=(0.35,),
            cache="runs/cache",
        ),
        augment=Augment(
            flip_horizontal=False,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.85, 1.2),
            brightness=0.1,
            contrast=0.1,
            noise=0.1,
        ),
        model=Model(widths=(16, 32, 64, 128), norm="group", window=(64, 64, 64)),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=200, weight_decay=1e-4),
    )
