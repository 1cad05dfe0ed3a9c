"""What a run is: its settings, its presets, the folder it lies in. No torch."""
