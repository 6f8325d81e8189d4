"""Replicas of services on this host: their ports, the checks of their readiness, and the causes of their failures."""
