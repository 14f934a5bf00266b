"""CPU kernels: each kind is one file that declares a kernel in Relax and emits its loops once it is fused."""
