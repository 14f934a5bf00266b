"""What leaves the graph world: lowering, bundles, runners and the emulator."""
