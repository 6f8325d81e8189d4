"""The way into jobs: an SSH server beside the agent, in its own process, so that bulk traffic does not slow the agent.

`python -m dstack.agent.sshd --home DIR` listens on the loopback, says so in one JSON line `{"port", "host_key"}` on its
output, and ends at the end of its input. Only `server` imports asyncssh, and only that process imports `server`.
"""
