"""The run directory and what is logged in it."""
