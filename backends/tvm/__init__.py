"""Lowering of stages to TVM libraries; the only package that imports TVM."""
