"""The one way in which the gate says no."""

from __future__ import annotations

from qkd_deploy.errors import UserError


class NotAsExportedError(UserError):
    """A file claims to be exported by this package, but is not what ``export`` writes."""

    def __init__(self, what: str) -> None:
        """``what``: what is wrong with the file, as a clause."""
        self.what = what
        super().__init__(f"the file is not as `qkd-deploy export` writes it: {what}; export it again")
