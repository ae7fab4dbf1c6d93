"""`python -m panoptic_cli` is the same program as `panoptic`."""

from panoptic_cli.commands.main import main

if __name__ == "__main__":
    main()
