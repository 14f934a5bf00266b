"""Training adapters on labelled data from files."""
