"""What a network file says. Presets are network files too."""
