"""Verbs of the compiler: one pass, one file, one class."""
