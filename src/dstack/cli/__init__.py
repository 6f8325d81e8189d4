"""The `dstack` command: talking to people, arguments in, words out. What is to be done, `dstack.api` does."""
