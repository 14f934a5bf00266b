"""Profiles: measured times of every kernel of compiled networks on the cores of this machine or of a board."""
