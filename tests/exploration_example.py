"""A prediction and an exploration made by hand, for the tests of the report and of the command line."""

from itertools import pairwise

from cospipe.ir.exploration import Exploration, Limits, Option
from cospipe.ir.latency import LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, SearchReport, StagePlan
from cospipe.ir.soc import load_soc
from cospipe.prediction import LayerPrediction, Prediction

KINDS = (LayerKind.CONV, LayerKind.POINTWISE_CONV, LayerKind.DEPTHWISE_CONV, LayerKind.POOLING)


def example_prediction(soc, layers=24, source="analytic, for cospipe CPU kernels"):
    """A network of residual blocks: each fourth layer also reads the one three before it, and has a fused ReLU."""
    made = []
    for i in range(layers):
        reads = [f"layer{i - 1}"] if i else []
        reads += [f"layer{i - 3}"] if i % 4 == 3 else []
        kind = KINDS[i % 4]
        macs = 0 if kind is LayerKind.POOLING else 4_000_000 * (1 + i % 5)
        size = LayerDescriptor(kind, 100, 0, 0, macs, 200_000, 30_000, 100_000)
        times = predicted(soc, 50 + macs / 1e4)
        made.append(LayerPrediction(f"layer{i}", f"blocks.{i}", size, times, tuple(reads)))
        if i % 4 == 3:
            fused = LayerDescriptor(LayerKind.ELEMENTWISE, 100, 0, 0, 0, 0, 0, 100_000, fused_into=f"layer{i}")
            made.append(LayerPrediction(f"relu{i}", f"blocks.{i}.relu", fused, predicted(soc, 0), (f"layer{i}",)))
    return Prediction(soc.name, source, tuple(made))


def predicted(soc, work):
    """Times that are 1, 3, 5 ... times as long from cluster to cluster, and shrink with the cores."""
    slowness = {cluster.name: 1 + 2 * number for number, cluster in enumerate(soc.clusters)}
    times = {c: round(work * slowness[c.cluster] / c.cores**0.8, 3) for c in soc.configurations()}
    return {str(c): LatencyPrediction(time_us, LatencySource.ANALYTIC, 0.07) for c, time_us in times.items()}


def example_plan(prediction, soc, stages, objective="throughput", contention=1.1):
    """A plan with a list of stages: the share of the layers where each ends, and its replicas."""
    count = len(prediction.layers)
    ends = [0, *(round(end * count) for end, _ in stages)]
    planned = []
    for number, ((start, stop), (_, replicas)) in enumerate(zip(pairwise(ends), stages, strict=True)):
        layers = prediction.layers[start:stop]
        moved = layers[0].layer.input_bytes if number else 0
        plan = StagePlan(
            name=f"stage{number}",
            replicas=tuple(_replica(text, layers) for text in replicas),
            nodes=tuple(layer.node for layer in layers),
            hand_over_us=soc.hand_over_us + moved / (soc.hand_over_gb_per_s * 1e3) if number else 0,
            hand_over_bytes=moved,
        )
        planned.append(plan)
    energy_mj = 3.0 * sum(len(stage.replicas) for stage in planned)
    totals = {str(c): round(value, 1) for c, value in prediction.total_us().items()}
    return PipelinePlan(
        soc=soc.name,
        objective=objective,
        stages=tuple(planned),
        single_stage_us=totals,
        contention=contention if len({c for stage in planned for c in stage.clusters}) > 1 else 1.0,
        energy_mj=energy_mj,
        power_mw=4000.0,
        memory_bytes=12_000_000,
        search=SearchReport(
            positions=count + 1,
            states=25 * count,
            transitions=300 * count,
            seconds=0.25,
            limited_by="all cores are used",
        ),
    )


def _replica(text, layers):
    cores = tuple(CoreConfiguration.parse(part) for part in text.split("+"))
    rates = [1 / sum(layer.latency_us[str(c)] for layer in layers) for c in cores]
    return Replica(cores=cores, cpu_ids=tuple(range(sum(c.cores for c in cores))), compute_us=1 / sum(rates))


def example_exploration(prediction, soc, model="nets:example", limits=None):
    """All kinds of plans, two baselines and a front on an RK3588."""
    plans = {
        "pipeline": [(0.7, ["big:4"]), (1, ["little:4"])],
        "one stage": [(1, ["big:4"])],
        "copies": [(1, ["big:1"] * 4 + ["little:1"] * 4)],
        "spread equal": [(1, ["big:4+little:4"])],
        "mixture": [(0.75, ["big:2", "big:2"]), (1, ["little:4"])],
    }
    made = {name: example_plan(prediction, soc, stages) for name, stages in plans.items()}
    cannot = {"spread equal": ("the runtime has no kernels over several clusters",)}
    too_much = {"copies": ("the limit of 50.00 ms for the latency",)}
    kinds = tuple(
        Option(name=name, plan=plan, cannot_run=cannot.get(name, ()), exceeds=too_much.get(name, ()))
        for name, plan in made.items()
    )
    heuristic = example_plan(prediction, soc, [(0.5, ["big:4"]), (1, ["little:4"])])
    baselines = (Option(name="Pipe-it's heuristic", plan=heuristic), Option(name="big alone", plan=made["one stage"]))
    front = [made["pipeline"], made["mixture"], made["one stage"]]
    return Exploration(
        model=model,
        soc=soc.name,
        objective="throughput",
        limits=limits or Limits(),
        chosen=min((made["pipeline"], made["mixture"]), key=lambda plan: plan.period_us),
        kinds=kinds,
        baselines=baselines,
        front=tuple(Option(name=p.kind, plan=p) for p in sorted(front, key=lambda plan: plan.period_us)),
        reasons=(
            "No pipeline along this order has a shorter period: 5,000 states were weighed.",
            "All cores are used.",
        ),
    )


def example(layers=24, model="nets:example"):
    soc = load_soc("rk3588")
    prediction = example_prediction(soc, layers)
    return example_exploration(prediction, soc, model), prediction, soc
