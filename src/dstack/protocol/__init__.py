"""What crosses a wire: statuses, REST bodies and objects, routes, agent messages and their frames, file manifests.

No behaviour and no I/O. `protocol.agent`, `protocol.frames` and `protocol.files` import nothing but the standard
library, because the agent on a host carries them.
"""
