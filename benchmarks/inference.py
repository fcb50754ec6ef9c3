"""The logits of the U-Net beside PyTorch's, and those of other packages.

    python benchmarks/inference.py --cases 4x128,2x256 --repeats 9

The U-Net of PyTorch is ours, with the same weights, by which the logits must agree. README.md says
what the columns mean.
"""

import turns

if __name__ == "__main__":
    turns.main("inference", "a logit", __doc__)
