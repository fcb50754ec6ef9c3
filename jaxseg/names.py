"""What the arrays of a model and of a state are called: in checkpoints, options and messages."""

from __future__ import annotations

import jax


def dotted(path: jax.tree_util.KeyPath) -> str:
    """The name of an array by its place in a tree, as `jax.tree_util` gives that.

    >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"down0": {"conv0": {"kernel": 0}}})
    >>> dotted(path)
    'down0.conv0.kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")
