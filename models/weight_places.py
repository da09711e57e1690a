"""Where a node may have a model's weights: a directory of its own, or one filled from elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelError
from models.fingerprint import Verify
from models.landing import Landing
from models.weight_source import CONFIG_NAME, WeightSource, open_checked


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlaces:
    """A node's places; all methods block.

    Attributes:
        locate: the directory that a model's name means on this node, be it there or not.
        landing: where what comes from other nodes is put, a directory for each model.
        cache: remembers full digests; None remembers none.
    """

    locate: Callable[[str], Path]
    landing: Path
    cache: Path | None = None

    def own(self, model: str, model_hash: str, verify: Verify) -> Path:
        """This node's own copy.

        Raises:
            ModelError: there is none, or it is another model.
        """
        path = self.locate(model)
        open_checked(path, model_hash, verify, self.cache)
        return path

    def source(self, model: str, model_hash: str, verify: Verify) -> WeightSource:
        """What can be given to others: of this node's own copy, else of what came.

        Raises:
            ModelError: there is neither, or it is another model.
        """
        own = self.locate(model)
        path = own if (own / CONFIG_NAME).exists() else self._place(model_hash)
        return WeightSource.open(path, model_hash, verify, self.cache)

    def landing_for(self, model_hash: str, verify: Verify) -> Landing:
        """Where a model from elsewhere goes.

        Raises:
            ModelError: the hash cannot be a directory's name.
        """
        return Landing(self._place(model_hash), model_hash, verify)

    def _place(self, model_hash: str) -> Path:
        if not (model_hash.isascii() and model_hash.isalnum()):
            raise ModelError(f"model hash {model_hash!r}: expected letters and digits alone")
        return self.landing / model_hash
