"""Tests of `dstack.api`."""
