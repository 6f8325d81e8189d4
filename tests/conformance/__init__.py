"""Suites for interfaces with several implementations: each passes the checks that apply to it."""
