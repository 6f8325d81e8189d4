"""Tests of `dstack.cli`."""
