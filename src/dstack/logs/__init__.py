"""Where the logs of jobs are kept: append-only bytes with byte offsets as cursors.

What is in them is nobody's business here.
"""
