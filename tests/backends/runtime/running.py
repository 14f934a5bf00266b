"""Frames for a bundle, and what eager PyTorch makes of them."""

import numpy as np
import torch


def frames_for(bundle, count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {spec.name: generator.standard_normal(spec.shape).astype(spec.dtype) for spec in bundle.manifest.inputs}
        for _ in range(count)
    ]


def eager(network, frame):
    with torch.no_grad():
        return [output.numpy() for output in network(*(torch.from_numpy(array) for array in frame.values()))]


def close(result, expected):
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(result.values(), expected, strict=True))
