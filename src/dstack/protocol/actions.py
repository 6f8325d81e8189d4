"""The kinds of work that a request asks for, and the roles of members. `domain/roles.py` has the table of both."""

from enum import StrEnum


class Action(StrEnum):
    """The work of a route, for the table of roles."""

    READ_ACCOUNT = "read your account"
    """Your name, your projects, and the names of your tokens."""
    MANAGE_TOKENS = "create and delete your tokens"
    CREATE_PROJECTS = "create projects"
    """The creator becomes the project's admin."""
    MANAGE_USERS = "manage users and their tokens"
    MANAGE_SERVER = "manage backends for all projects"
    AUDIT = "see the machines of all projects"
    READ = "see runs, logs, metrics, events, machines, members, and the names of secrets"
    RUN = "submit, change, stop and delete runs, send files, and get into jobs"
    READ_SECRETS = "read values of secrets"
    WRITE_SECRETS = "set and delete secrets"
    MANAGE_MEMBERS = "add, change and remove members"
    MANAGE_BACKENDS = "add, change, check and delete backends of the project"
    DELETE_PROJECT = "delete the project"


class Role(StrEnum):
    """A member's role in a project. An admin of the server has the role `admin` in each project."""

    ADMIN = "admin"
    MANAGER = "manager"
    USER = "user"
