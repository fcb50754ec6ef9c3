"""Boundaries as people see them: Berkeley segmentation, the share of its annotators at each pixel.

images/train/*.jpg have 4 to 9 annotators each, in groundTruth/train/*.mat. Labels are their votes;
the KL divergence from these to the prediction is least where it is the share of annotators that
drew a boundary there (Arbelaez et al. 2011, doi:10.1109/TPAMI.2010.161).

    python -m jaxseg.train --config=configs/bsds500.py --config.data.root=BSDS500/data
"""

from jaxseg.config import Augment, Config, Data, Model, Optim


def get_config() -> Config:
    return Config(
        steps=2_000,
        batch_size=8,
        eval_batch_size=4,
        eval_every=500,
        checkpoint_every=100,
        log_every=20,
        loss=(("kl_divergence", 1.0),),
        data=Data(
            name="folder",
            root="BSDS500/data",
            train_split="[:80%]",
            eval_split="[80%:]",
            image="images/train",
            label="groundTruth/train",
            split_by="hash",
            masks="votes",
            classes=("region", "boundary"),
            channels=3,
            image_size=(481, 481),
            mean=(0.434, 0.445, 0.370),
            std=(0.249, 0.233, 0.243),
            cache="runs/cache",
        ),
        augment=Augment(
            crop_size=(256, 256),
            flip_horizontal=True,
            flip_vertical=False,
            rotate90=False,
            rotate=10.0,
            scale=(0.75, 1.5),
            brightness=0.2,
            contrast=0.2,
            hue=0.02,
            gamma=0.2,
        ),
        model=Model(widths=(16, 32, 64, 128), norm="batch"),
        optim=Optim(name="adamw", learning_rate=1e-3, warmup_steps=100, weight_decay=1e-4),
    )
