"""One module for each command: `EXAMPLE`, `arguments(parser)` and `run(args, progress) -> Report`. None of them prints."""
