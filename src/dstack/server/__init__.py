"""The server: the composition root, and HTTP in front of `dstack.operations`.

The operations decide the effect of a call.
"""
