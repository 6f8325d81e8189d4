"""The data plane: HTTP from clients to the replicas of services, in a process of its own.

A busy, restarting or dead server cuts no request, WebSocket or stream here. Routes come from the server (`control.py`).
"""
