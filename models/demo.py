"""Where the built-in demo model stands.

`--model demo` names a small checkpoint that comes with the package, so that a first run needs no
download. This module knows its place and nothing of its contents; `docs/demo-model.md` tells how
it was made.
"""

from pathlib import Path

from models.errors import BadCheckpoint

REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

_CHECKPOINT = Path(__file__).resolve().parent / "demo_checkpoint"


def demo_path() -> Path:
    """The folder of the demo checkpoint, in a checkout as in an installed package.

    Raises:
        BadCheckpoint: the package was built without it, or a file of it is gone.
    """
    return checked_folder(_CHECKPOINT)


def checked_folder(folder: Path) -> Path:
    """The folder itself, if it holds every file that loading it needs.

    Raises:
        BadCheckpoint: one is not there; the text names all that are missing.
    """
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise BadCheckpoint(f"{folder}: no {', '.join(missing)}; reinstall the package")
    return folder
