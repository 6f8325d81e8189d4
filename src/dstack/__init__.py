"""dstack runs AI workloads on any cloud, cluster or laptop.

Public by promise: `dstack.api`, `dstack.backends.base`, `dstack.plugins`, `dstack.testing`. All else may change
without notice. This module imports nothing, so that `import dstack` costs nothing.
"""

__version__ = "0.1.0"
