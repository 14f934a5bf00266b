"""A forest of extremely randomised trees, fitted by scikit-learn and evaluated by numpy.

One layer is predicted at a time, thousands of times in a search; walking all trees at once in numpy takes a
hundredth of scikit-learn's time for one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cospipe.ir.layer_features import Array

Indices = NDArray[np.int64]

_TREES = 200
_LEAF_ROWS = 2


@dataclass(frozen=True)
class Forest:
    """Trees as arrays of trees x nodes; a leaf is its own child."""

    feature: Indices
    threshold: Array
    left: Indices
    right: Indices
    value: Array
    depth: int

    def predict(self, features: Array) -> Array:
        """Return the mean of all trees for each row of features (n x features)."""
        features = features.astype(np.float32)  # what scikit-learn compared with these thresholds
        trees = np.arange(len(self.feature))[None, :]
        node = np.zeros((len(features), len(self.feature)), dtype=np.int64)
        row = np.arange(len(features))[:, None]
        for _ in range(self.depth):
            goes_left = features[row, self.feature[trees, node]] <= self.threshold[trees, node]
            node = np.where(goes_left, self.left[trees, node], self.right[trees, node])
        mean: Array = self.value[trees, node].mean(axis=1)
        return mean


def fit_forest(features: Array, values: Array) -> Forest:
    """Return the forest of some rows; the same rows always give the same forest."""
    from sklearn.ensemble import ExtraTreesRegressor  # slow to import; known forests do not need it

    regressor = ExtraTreesRegressor(_TREES, min_samples_leaf=_LEAF_ROWS, random_state=0, n_jobs=1)
    regressor.fit(features, values)
    trees = [estimator.tree_ for estimator in regressor.estimators_]
    nodes = max(tree.node_count for tree in trees)
    shape = (len(trees), nodes)
    itself = np.tile(np.arange(nodes), (len(trees), 1))
    feature, left, right = np.zeros(shape, np.int64), itself.copy(), itself.copy()
    threshold, value = np.zeros(shape), np.zeros(shape)
    for index, tree in enumerate(trees):
        inner, used = tree.children_left >= 0, tree.node_count
        feature[index, :used] = np.where(inner, tree.feature, 0)
        threshold[index, :used] = tree.threshold
        left[index, :used] = np.where(inner, tree.children_left, itself[index, :used])
        right[index, :used] = np.where(inner, tree.children_right, itself[index, :used])
        value[index, :used] = tree.value[:, 0, 0]
    return Forest(feature, threshold, left, right, value, max(tree.max_depth for tree in trees))
