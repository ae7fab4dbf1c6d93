"""One module per subcommand; main.py holds the app."""
