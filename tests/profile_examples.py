"""Profiles that tests make up: a board with two kinds of cores, and a network of three layers."""

from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.profile import ConfigurationProfile, KernelTime, NetworkProfile, Profile

FINGERPRINT = "ab" * 32
CONVOLUTION = LayerDescriptor(LayerKind.CONV, 3136, 576, 64, 115605504, 802816, 147456, 802816)
POOLING = LayerDescriptor(LayerKind.POOLING, 64, 0, 0, 0, 802816, 0, 256)


def kernel(node, median_us, layer=CONVOLUTION, others=()):
    return KernelTime(nodes=(node, *others), layer=layer, median_us=median_us, p90_us=1.5 * median_us, runs=9)


def on_cores(*kernels, network_us=None, network_runs=9, cpu_ids=(0,)):
    total = sum(one.median_us for one in kernels)
    return ConfigurationProfile(
        cpu_ids=cpu_ids,
        clock_mhz=(1800.0,) * len(cpu_ids),
        governor="performance",
        measured_at="2026-01-02T03:04:05+00:00",
        kernels=kernels,
        network_us=total if network_us is None else network_us,
        network_runs=network_runs,
    )


def network(configurations, model="nets:one", fingerprint=FINGERPRINT):
    return NetworkProfile(model=model, fingerprint=fingerprint, configurations=configurations)


def profile(*networks, **changes):
    values = {
        "source": "measured",
        "soc": "two-clusters",
        "machine": "a board",
        "core_types": {"big": "cortex-a73", "little": "cortex-a53"},
        "kernel_library": "cospipe CPU kernels",
        "cospipe_version": "0.1.0",
        "tvm_version": "0.27.0",
        "networks": networks,
    }
    return Profile(**{**values, **changes})
