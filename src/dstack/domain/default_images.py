"""The image of a job that names none, and how it gets the Python that its job asks for."""

from dstack.spec.configurations import RunConfiguration
from dstack.spec.run import script_of

DEFAULT_PYTHON = "3.12"
NVCC_IMAGE = "nvidia/cuda:12.8.1-devel-ubuntu24.04"
_PYTHON = "/opt/python"
_NVCC_PATH = "/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_of(configuration: RunConfiguration) -> str:
    """Return the image of a configuration; one that names none gets Python's own, or NVIDIA's with the CUDA compiler.

    Examples:
        >>> from dstack.spec.task import Task
        >>> image_of(Task(commands=["true"], python="3.11")), image_of(Task(commands=["true"], image="ubuntu"))
        ('python:3.11', 'ubuntu')
    """
    if configuration.image is not None:
        return configuration.image
    if configuration.nvcc:
        return NVCC_IMAGE
    return f"python:{configuration.python or DEFAULT_PYTHON}"


def preparation_of(configuration: RunConfiguration) -> str:
    """Return what runs before the commands: NVIDIA's image has no Python, and gets the version that is asked for."""
    if not _installs_python(configuration):
        return ""
    return script_of(
        [
            "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND\n"
            "apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv >/dev/null",
            "unset DEBIAN_FRONTEND",
            "python3 -m venv /opt/uv && /opt/uv/bin/pip install -q uv",
            f"/opt/uv/bin/uv venv -q --seed --python {configuration.python} {_PYTHON}",
        ]
    )


def image_env(configuration: RunConfiguration) -> dict[str, str]:
    """Return the variables by which commands and logins find what `preparation_of` installs."""
    return {"PATH": f"{_PYTHON}/bin:{_NVCC_PATH}"} if _installs_python(configuration) else {}


def _installs_python(configuration: RunConfiguration) -> bool:
    return configuration.image is None and bool(configuration.nvcc) and configuration.python is not None
