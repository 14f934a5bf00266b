"""``build.sh``: the tvmc commands that compile the stages of a pipeline and join them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from cospipe.backends.tvm.tvmc.pipeline_file import PIPELINE_NAME, PipelineFile, PipelineStage, StagePackage

JOINED = "app.tar"
WITHOUT_WINOGRAD = "-O 2"
"""The highest level of ``tvmc compile`` at which 3x3 convolutions are not computed by Winograd's method."""

_HEAD = """\
#!/bin/sh
# Compiles the stages of {model} for {soc} and joins them to {joined}, which `tvmc run` takes.
# Options of `tvmc compile` can be added: sh build.sh --cross-compiler aarch64-linux-gnu-gcc
# TVMC says which command to call, for example: TVMC='python -m cospipe.tvmc' sh build.sh
set -eu
cd "$(dirname "$0")"
: "${{TVMC:=tvmc}}"
"""


def build_script(pipeline: PipelineFile) -> str:
    """Return the text of the script, which runs in any POSIX shell."""
    parts = [_HEAD.format(model=_one_line(pipeline.model), soc=_one_line(pipeline.plan.soc), joined=JOINED)]
    for stage in pipeline.stages:
        parts += _compile_commands(stage, pipeline)
    parts.append(f"$TVMC compile {PIPELINE_NAME} -o {JOINED}\n")
    return "\n".join(parts)


def _compile_commands(stage: PipelineStage, pipeline: PipelineFile) -> Iterator[str]:
    for package in stage.packages:
        options = ["--cores", shlex.quote(package.cores)]
        options += ["--target", "llvm"] if pipeline.for_this_machine and not package.cores.startswith("host:") else []
        options += [] if pipeline.winograd else [WITHOUT_WINOGRAD]
        command = ["$TVMC", "compile", shlex.quote(stage.onnx), *options, '"$@"', "-o", shlex.quote(package.package)]
        yield f"# {_target_text(package)}\n{' '.join(command)}\n"


def _target_text(package: StagePackage) -> str:
    """Return what LLVM is told, as a target string."""
    target = package.target
    said = {"mtriple": target["mtriple"], "mcpu": target["mcpu"], "mattr": ",".join(target["mattr"])}
    options = [f"-{name}={value}" for name, value in said.items() if value]
    return _one_line(" ".join(["llvm", *options, f"-num-cores={package.threads}"]))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_me(pipeline: PipelineFile) -> str:
    """Return the text of ``README.txt``."""
    stages = "\n".join(_stage_lines(pipeline.stages))
    return f"""\
{pipeline.model} as a pipeline for {pipeline.plan.soc}

{stages}

    sh build.sh                                compiles every stage with tvmc and joins them to {JOINED}
    tvmc run {JOINED}                           runs it
    mkdir app && tar -xf {JOINED} -C app        makes a directory of it, for a board; cospipe run takes either

{PIPELINE_NAME} says which cores run which stage and how the packages are joined. The tensors of one frame, computed by
eager PyTorch, are in {pipeline.reference}: the inputs, what the stages hand over, and the outputs.
"""


def _stage_lines(stages: Iterable[PipelineStage]) -> Iterator[str]:
    for stage in stages:
        cores = ", ".join(package.cores for package in stage.packages)
        yield f"{stage.onnx}: {', '.join(map(str, stage.inputs))} -> {', '.join(map(str, stage.outputs))}; on {cores}"
