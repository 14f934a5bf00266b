"""Verbs of the compiler: one pass, one file, one class."""

from cospipe.passes.pipeline import PASSES, PassManager, parse_pipeline, pipeline_text

__all__ = ["PASSES", "PassManager", "parse_pipeline", "pipeline_text"]
