"""What a layer costs, independent of any chip: the :class:`LayerDescriptor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LayerKind(str, Enum):
    """The kinds of layer a latency model tells apart."""

    CONV = "conv"
    POINTWISE_CONV = "pointwise_conv"
    DEPTHWISE_CONV = "depthwise_conv"
    GROUPED_CONV = "grouped_conv"
    TRANSPOSED_CONV = "transposed_conv"
    LINEAR = "linear"
    MATMUL = "matmul"
    ATTENTION = "attention"
    POOLING = "pooling"
    NORMALISATION = "normalisation"
    ELEMENTWISE = "elementwise"
    SOFTMAX = "softmax"
    CONCAT = "concat"
    RESHAPE = "reshape"
    OTHER = "other"


@dataclass(frozen=True)
class LayerDescriptor:
    """Size of one layer, in Pipe-it's terms (arXiv 1903.05898, section IV-A).

    A convolution is a matrix product of an N x K matrix (the unrolled input) and a K x M matrix (the weights):
    N = batch x output pixels, K = kernel elements x input channels of a group, M = output channels. Linear layers
    and matrix products use the same three numbers; everything else has K = M = 0.

    Parameters
    ----------
    kind : LayerKind
        What the layer does.
    gemm_n, gemm_k, gemm_m : int
        Rows, inner size and columns of the matrix product; N is the number of output elements without one.
    macs : int
        Multiply-accumulate operations.
    input_bytes, weight_bytes, output_bytes : int
        Bytes read from other layers, read from parameters, and written.
    groups : int
        Groups of a convolution, otherwise 1.
    stride : int
        Stride of a convolution or pooling along its last axis, otherwise 1.
    fused_into : str or None
        Node whose kernel computes this layer on the fly (an activation behind a convolution); then
        ``input_bytes`` counts only what that kernel reads in addition.
    kernel : tuple of int
        Height and width of a convolution's kernel; empty when unknown or there is none.
    output_size : tuple of int
        Height and width of a convolution's result; empty when unknown or it is none.
    dilation : int
        Distance between the pixels that a convolution's kernel reads, otherwise 1.
    """

    kind: LayerKind
    gemm_n: int
    gemm_k: int
    gemm_m: int
    macs: int
    input_bytes: int
    weight_bytes: int
    output_bytes: int
    groups: int = 1
    stride: int = 1
    fused_into: str | None = None
    kernel: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()
    dilation: int = 1

    @property
    def total_bytes(self) -> int:
        """Bytes read and written."""
        return self.input_bytes + self.weight_bytes + self.output_bytes

    @property
    def arithmetic_intensity(self) -> float:
        """MACs for each byte moved."""
        return self.macs / self.total_bytes if self.total_bytes else 0.0
