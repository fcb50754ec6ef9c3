"""A training step of the U-Net beside PyTorch's, and those of other packages.

    python benchmarks/training.py --cases 4x128,2x256 --repeats 9

A step is the forward and backward pass, and Adam. The U-Net of PyTorch is ours, with the same
weights, in which the first losses must agree. README.md says what the columns mean.
"""

import turns

if __name__ == "__main__":
    turns.main("training", "third loss", __doc__)
