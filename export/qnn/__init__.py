"""Files for Qualcomm's HTP: how a session is set up, what it tells, and binaries that are compiled ahead."""
