"""What the tvmc command does: models as Relax modules, packages of compiled ones, runs."""
