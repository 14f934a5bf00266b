"""Nouns of the compiler: captured graphs, annotations, layers, SoCs, plans and manifests. Knows no TVM."""
