"""Data that is sent over a network: statuses, REST bodies and views, routes, agent messages, frames, file manifests.

No behaviour and no I/O. `protocol.agent`, `protocol.frames` and `protocol.files` import nothing but the standard
library, because the agent on a host carries them.
"""
