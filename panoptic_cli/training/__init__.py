"""Training: devices, schedules, the step, checkpoints and the run directory."""
