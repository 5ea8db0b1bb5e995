"""Errors that the user can put right."""


class UserError(ValueError):
    """Something in the command, the configuration or the data that only the user can put right."""


class FolderTakenError(UserError):
    """Another process runs in the folder, or has just ended there."""
