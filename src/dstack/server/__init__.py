"""The server: the composition root, and HTTP in front of `dstack.operations`.

What a call does is decided there, not here.
"""
