"""Where Python may import from: never the working folder, whose files are data.

Nothing but `os` and `sys` is imported at the top, which Python has loaded before it looks at any folder: this module is
the first of `python -m pipeline`, whose import path begins with the working folder.
"""

import os
import sys

DISTRIBUTION = "ablate-training"  # what pip calls it; its `ablate` is another project

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is not frozen


def leave_folder() -> None:
    """Takes the working folder off this process's import path, and off that of every process that it will start.

    An empty or relative entry of `PYTHONPATH` means the working folder too, whatever that is at the moment. An absolute
    one was meant, and stays.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    meant = [part for part in given if _absolute(part)]
    try:
        loose = {os.path.realpath(part) for part in ["", *given] if not _absolute(part)}
        loose -= {os.path.realpath(part) for part in meant}
    except OSError:  # the folder is gone, and with it what could be imported from it
        loose = set()
    before = sys.path[: _library()]
    kept = [part for part in before if _absolute(part) and os.path.realpath(part) not in loose]
    behind = [part for part in sys.path[len(before) :] if _absolute(part)]
    if _ROOT in before and _ROOT not in kept and _ROOT not in behind:
        behind.append(_ROOT)  # the folder is the package's own: its other files come last
    sys.path[:] = kept + behind
    os.environ["PYTHONSAFEPATH"] = "1"
    if given != meant:
        os.environ["PYTHONPATH"] = os.pathsep.join(meant)


def path_environment() -> dict[str, str]:
    """Variables under which a new interpreter finds this package, and nothing in the working folder.

    A fork server does not get its parent's `sys.path` (CPython gh-117378) and passes over a preload that it cannot
    import: every run would import torch anew, without a word. So a package that is not installed is named.
    """
    given = os.environ.get("PYTHONPATH", "")
    kept = [part for part in given.split(os.pathsep) if _absolute(part)]
    if not _is_installed(_ROOT):  # else it is found anyway, and its folder in front could hide the standard library
        kept = [_ROOT, *(part for part in kept if part != _ROOT)]
    found = {"PYTHONSAFEPATH": "1"}
    if kept or given:
        found["PYTHONPATH"] = os.pathsep.join(kept)
    return found


def _absolute(part: str) -> bool:
    return os.path.isabs(part)  # noqa: PTH117


def _library() -> int:
    """Index of the standard library in `sys.path`: what stands before it came from the call, not the installation."""
    places = {os.path.dirname(os.__file__), f"python{sys.version_info[0]}{sys.version_info[1]}.zip"}  # noqa: PTH120
    for index, part in enumerate(sys.path):
        if part in places or os.path.basename(part) in places:  # noqa: PTH119
            return index
    return 0


def _is_installed(root: str) -> bool:
    """Whether any interpreter of this environment finds the package: it lies there, or was installed as editable."""
    if os.path.basename(root) in ("site-packages", "dist-packages"):  # noqa: PTH119
        return True
    import importlib.metadata
    import json
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin = json.loads(importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    editable = origin.get("dir_info", {}).get("editable", False)
    return bool(editable) and os.path.realpath(url2pathname(urlsplit(origin["url"]).path)) == os.path.realpath(root)
