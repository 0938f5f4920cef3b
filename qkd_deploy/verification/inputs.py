"""Arrays from files, for verification without a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qkd_deploy.errors import UserError


def read_inputs(path: Path | str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a ``.npy`` file, or the arrays of an ``.npz`` file by name. Pickled objects are never loaded.

    Raises:
        UserError: the file is missing, unreadable, damaged, of another kind, or holds pickled objects.
    """
    file = Path(path)
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}; write one with numpy.save") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; give a .npy or .npz file") from error
    except Exception as error:  # numpy has no common error for what is wrong in a file
        raise UserError(
            f"{file} holds no plain arrays (it is damaged, of another kind, or has pickled objects); "
            "write it with numpy.save and allow_pickle=False"
        ) from error
