"""Whole networks, from torchvision's definitions, through every step: each stage and the whole equal eager PyTorch."""

import pytest
import torch
import torchvision
from torch import nn

import cospipe
from cospipe.backends.verify import verify_bundle

pytestmark = pytest.mark.slow


def small_vision_transformer():
    sizes = {"num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
    return torchvision.models.VisionTransformer(image_size=64, patch_size=16, num_classes=10, **sizes)


def small_swin_transformer():
    sizes = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
    return torchvision.models.SwinTransformer(patch_size=[4, 4], window_size=[7, 7], num_classes=10, **sizes)


NETWORKS = {
    "mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "shufflenet_v2_x0_5": torchvision.models.shufflenet_v2_x0_5,
    "vision transformer": small_vision_transformer,
    "swin transformer": small_swin_transformer,
}


def randomised(model):
    """Give batch norms statistics that are not those of an untrained network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network(name, tmp_path):
    torch.manual_seed(0)
    model, inputs = randomised(NETWORKS[name]()), (torch.randn(1, 3, 64, 64),)
    made = cospipe.optimize(model, inputs, output=tmp_path / "bundle")
    result = verify_bundle(made.bundle)
    result.raise_if_failed()
    assert len(result.checks) >= len(made.plan.stages) + 1
    frames = made.run(4)
    assert frames.statistics["frames"] == len(frames.outputs) == 4
