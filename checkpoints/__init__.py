"""Where models come from: series of checkpoints, local or built in."""
