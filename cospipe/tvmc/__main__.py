"""``python -m cospipe.tvmc``."""

from cospipe.tvmc.main import main

main()
