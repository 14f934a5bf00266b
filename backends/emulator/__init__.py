"""Running of AArch64 stages on this machine, under QEMU."""
