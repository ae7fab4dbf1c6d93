"""The networks, one folder for each model family."""
