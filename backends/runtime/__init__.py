"""Running of bundles, without torch, networkx or the TVM compiler."""
