"""Boards behind TVM's RPC tracker: several at once, probed before they get work, left out when they fail."""
