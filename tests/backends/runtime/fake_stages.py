"""Bundles for the fake TVM runtime (fake_runtime.cpp), and a numpy model of what their stages compute."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cospipe import __version__
from cospipe.backends.bundle import write_bundle
from cospipe.ir.adapter_file import AdaptedWeight, AdapterHeader, StoredAdapter, fingerprint, write_adapter
from cospipe.ir.manifest import (
    FORMAT,
    FORMAT_VERSION,
    AdapterSlot,
    Manifest,
    StageBuild,
    StageFiles,
    TensorSpec,
    WeightArgument,
)
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.tensor_file import write_tensors

SCALE_OF_PREPARED = 0.5
ROOM = 4
"""Coefficients that fit into a slot."""


def tensor(name: str, shape: Sequence[int] = (2, 3), dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=tuple(shape), dtype=dtype)


@dataclass(frozen=True)
class Output:
    """A tensor that a stage writes: scale * an input + shift + the sum of all elements of all its weights."""

    spec: TensorSpec
    of: str
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class FakeReplica:
    """A copy of a stage on some cores; ``lines`` (``sleep_us 20``) go into its library, which equal replicas share."""

    cpu_ids: tuple[int, ...] = (0,)
    lines: tuple[str, ...] = ()
    compute_us: float = 1.0


@dataclass(frozen=True)
class FakeStage:
    """A stage.

    ``weights`` are handed to main as they are, and may be replaced by an adapter; a stage with an ``adapted`` weight (a
    matrix) prepares it from the matrix, coefficients and places. ``lines`` go into each of its libraries.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Output, ...]
    replicas: tuple[FakeReplica, ...] = (FakeReplica(),)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    adapted: str | None = None
    shares_by_speed: bool = False
    lines: tuple[str, ...] = ()

    @property
    def libraries(self) -> list[tuple[tuple[str, ...], int]]:
        """Lines and threads of each build."""
        return list(dict.fromkeys((replica.lines, len(replica.cpu_ids)) for replica in self.replicas))

    def stored(self) -> dict[str, np.ndarray]:
        """Weights as they lie in the bundle."""
        tensors = dict(self.weights)
        if self.adapted:
            tensors[self.adapted] = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
            tensors[f"{self.adapted}.coefficients"] = np.zeros(ROOM, np.float32)
            tensors[f"{self.adapted}.places"] = np.zeros(ROOM, np.int32)
        return tensors

    def weight_arguments(self) -> tuple[WeightArgument, ...]:
        arguments = [
            WeightArgument(tensor=tensor(name, value.shape, str(value.dtype)), function=None, weights=(name,))
            for name, value in self.weights.items()
        ]
        if self.adapted:
            made = tensor(f"{self.adapted}.made", (2, 3))
            names = (self.adapted, f"{self.adapted}.coefficients", f"{self.adapted}.places")
            arguments.append(WeightArgument(tensor=made, function="prepare_0", weights=names))
        return tuple(arguments)

    def weight_sum(self, adapter: StoredAdapter | None) -> float:
        """Sum of all elements of the weights that main takes."""
        stored = self.stored()
        trained = adapter.trained if adapter else {}
        total = sum(np.sum(trained.get(name, stored[name]), dtype=np.float64) for name in self.weights)
        if self.adapted is None:
            return float(total)
        further = 0.0
        if adapter and self.adapted in adapter.header.weights:
            alpha = adapter.header.weights[self.adapted].alpha
            further = float(np.sum(adapter.coefficients[self.adapted] * np.float32(alpha), dtype=np.float64))
            further += float(np.sum(adapter.places[self.adapted]))
        prepared = SCALE_OF_PREPARED * stored[self.adapted].astype(np.float64) + further
        return float(total + prepared.sum())

    def compute(self, values: Mapping[str, np.ndarray], adapter: StoredAdapter | None) -> dict[str, np.ndarray]:
        """Return what it writes."""
        further = self.weight_sum(adapter)
        return {output.spec.name: _computed(output, values[output.of], further) for output in self.outputs}

    def text(self, lines: tuple[str, ...]) -> str:
        """Return a library of this stage."""
        names = [spec.name for spec in self.inputs]
        outputs = [
            f"output {names.index(output.of)} {output.scale} {output.shift} {_form(output.spec)}"
            for output in self.outputs
        ]
        counts = [f"inputs {len(self.inputs)}", f"weights {len(self.weight_arguments())}"]
        prepare = [f"prepare prepare_0 {SCALE_OF_PREPARED} {_form(tensor('', (2, 3)))}"] if self.adapted else []
        share = ["shares_by_speed"] if self.shares_by_speed else []
        return "\n".join(["cospipe fake stage", *counts, *outputs, *prepare, *share, *self.lines, *lines, ""])


def _form(spec: TensorSpec) -> str:
    return " ".join(map(str, (spec.dtype, len(spec.shape), *spec.shape)))


def _computed(output: Output, value: np.ndarray, further: float) -> np.ndarray:
    count = int(np.prod(output.spec.shape))
    numbers = np.resize(value.astype(np.float64), count) if value.size else np.zeros(count)
    result = output.scale * numbers + output.shift + further
    return result.astype(output.spec.dtype).reshape(output.spec.shape)


@dataclass(frozen=True)
class FakePipeline:
    """A network of fake stages."""

    inputs: tuple[TensorSpec, ...]
    stages: tuple[FakeStage, ...]
    outputs: tuple[str, ...]

    def expected(self, frame: Mapping[str, np.ndarray], adapter: StoredAdapter | None = None) -> dict[str, np.ndarray]:
        """Return the results of a frame by output name."""
        values = self.values(frame, adapter)
        return {name: values[name] for name in self.outputs}

    def values(self, frame: Mapping[str, np.ndarray], adapter: StoredAdapter | None = None) -> dict[str, np.ndarray]:
        """Return everything that enters or leaves a stage."""
        values = dict(frame)
        for stage in self.stages:
            values |= stage.compute(values, adapter)
        return values

    def frame(self, number: int) -> dict[str, np.ndarray]:
        """Return a frame whose first input begins with ``number``: by that stages know it."""
        return {spec.name: _counting(spec, number) for spec in self.inputs}

    def raw(self, count: int) -> bytes:
        """Return the bytes of some frames, one behind the other, numbered from 1."""
        frames = (self.frame(number) for number in range(1, count + 1))
        return b"".join(array.tobytes() for frame in frames for array in frame.values())

    def raw_results(self, count: int, adapters: Sequence[StoredAdapter | None] = ()) -> bytes:
        """Return the bytes of their results; ``adapters`` are those of the single frames."""
        chosen = adapters or [None] * count
        frames = (self.expected(self.frame(number), chosen[number - 1]) for number in range(1, count + 1))
        return b"".join(array.tobytes() for frame in frames for array in frame.values())

    def write(self, folder):
        """Write it as a bundle and open that."""
        return write_bundle(folder, self._fill)

    def _fill(self, folder):
        for number, stage in enumerate(self.stages):
            for build, (lines, _) in enumerate(stage.libraries):
                (folder / _library(number, build)).write_text(stage.text(lines))
            write_tensors(folder / f"stage{number}.safetensors", stage.stored())
        write_tensors(folder / "reference.safetensors", self.values(self.frame(1)))
        return self._manifest

    def _manifest(self, files):
        written = {output.spec.name: output.spec for stage in self.stages for output in stage.outputs}
        known = {spec.name: spec for spec in self.inputs} | written
        return Manifest(
            format=FORMAT,
            version=FORMAT_VERSION,
            cospipe_version=__version__,
            tvm_version="0.27.0",
            model="fake",
            architecture=platform.machine(),
            soc_architecture=platform.machine(),
            passes="",
            winograd=False,
            plan=PipelinePlan(
                soc="host",
                objective="throughput",
                stages=tuple(_planned(number, stage) for number, stage in enumerate(self.stages)),
            ),
            inputs=self.inputs,
            outputs=tuple(known[name] for name in self.outputs),
            stages=tuple(_files(number, stage) for number, stage in enumerate(self.stages)),
            reference="reference.safetensors",
            relative_tolerance=1e-4,
            files=files,
        )


def _counting(spec: TensorSpec, number: int) -> np.ndarray:
    count = int(np.prod(spec.shape))
    if spec.dtype == "bool":
        return (np.arange(count) % 2 == number % 2).reshape(spec.shape)
    return (number + np.arange(count) % 3).astype(spec.dtype).reshape(spec.shape)


def _library(stage: int, build: int) -> str:
    return f"stage{stage}-{build}.so"


def _planned(number: int, stage: FakeStage) -> StagePlan:
    replicas = tuple(
        Replica(
            cores=(CoreConfiguration("big", len(replica.cpu_ids)),),
            cpu_ids=replica.cpu_ids,
            compute_us=replica.compute_us,
        )
        for replica in stage.replicas
    )
    return StagePlan(name=f"stage{number}", replicas=replicas, nodes=("node",), hand_over_us=0, hand_over_bytes=0)


def _files(number: int, stage: FakeStage) -> StageFiles:
    builds = [
        StageBuild(
            library=_library(number, build),
            core_type="generic",
            threads=threads,
            shares_by_speed=stage.shares_by_speed,
            weight_arguments=stage.weight_arguments(),
        )
        for build, (_, threads) in enumerate(stage.libraries)
    ]
    slots = [(stage.adapted, f"{stage.adapted}.coefficients", f"{stage.adapted}.places")] if stage.adapted else []
    chosen = [stage.libraries.index((replica.lines, len(replica.cpu_ids))) for replica in stage.replicas]
    return StageFiles(
        **dict(builds[0]),
        name=f"stage{number}",
        weights=f"stage{number}.safetensors",
        inputs=stage.inputs,
        outputs=tuple(output.spec for output in stage.outputs),
        weight_names=tuple(stage.stored()),
        adapter_slots=tuple(AdapterSlot(weight=w, coefficients=c, places=p) for w, c, p in slots),
        replaceable=tuple(stage.weights),
        further_builds=tuple(builds[1:]),
        replica_builds=tuple(chosen),
    )


def adapter_for(pipeline: FakePipeline, number: int, path, trained: Mapping[str, np.ndarray] | None = None):
    """Write an adapter on every adapted weight that no other ``number`` equals in its results; return what it holds."""
    weights = {stage.adapted: stage.stored()[stage.adapted] for stage in pipeline.stages if stage.adapted}
    header = AdapterHeader(
        weights={
            name: AdaptedWeight(shape=value.shape, n=2, alpha=0.5, fingerprint=fingerprint(value))
            for name, value in weights.items()
        },
        trained={name: value.shape for name, value in (trained or {}).items()},
    )
    coefficients = {name: np.array([number, number / 4], np.float32) for name in weights}
    places = {name: np.array([1, 3], np.int32) for name in weights}
    adapter = StoredAdapter(header, coefficients, places, dict(trained or {}))
    write_adapter(path, adapter)
    return adapter


def chain(count: int, *, spec: TensorSpec | None = None, adapted: bool = False, **options) -> FakePipeline:
    """Return a pipeline of stages in a row, each of which adds 1 to what it reads (and what its weights add).

    ``options`` are FakeStage's, for every stage; a list has one value for each.
    """
    form = spec or tensor("value0")
    specs = [tensor(f"value{i}", form.shape, form.dtype) for i in range(count + 1)]
    stages = tuple(
        FakeStage(
            inputs=(specs[i],),
            outputs=(Output(specs[i + 1], specs[i].name, shift=1.0),),
            adapted=f"weight{i}" if adapted else None,
            **{name: value[i] if isinstance(value, list) else value for name, value in options.items()},
        )
        for i in range(count)
    )
    return FakePipeline((specs[0],), stages, (specs[-1].name,))
