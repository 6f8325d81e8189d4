"""One module a command: `HELP`, `add_arguments(parser)` and `run(arguments) -> exit code`.

A module imports only the standard library at its top; the rest is imported when the command runs, so that
`dstack --help` costs next to nothing.
"""
