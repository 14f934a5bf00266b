"""Board directories: bundles with the program and the libraries that run them where nothing else is installed."""
