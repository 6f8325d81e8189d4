"""Containers of this host: the engine's API, its images, and how a job becomes a container."""
