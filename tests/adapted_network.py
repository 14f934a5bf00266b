"""What a network is with an adapter, in eager PyTorch."""

import copy

import cospipe


def adapted(network, file):
    """A copy of a network with an adapter merged, in eager PyTorch; the network itself without a file."""
    if file is None:
        return network
    changed = copy.deepcopy(network)
    adapters = cospipe.load_adapter(changed, file)
    adapters.merge()
    return adapters.remove()
