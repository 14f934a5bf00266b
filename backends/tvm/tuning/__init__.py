"""MetaSchedule on top of our kernels: what it finds faster is used, what it does not stays ours."""
