"""Measures the data plane beside nginx, Caddy, and FastAPI with httpx, in front of the same replica."""
