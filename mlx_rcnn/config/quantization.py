"""How linear layers are quantised: the fields that config.json has, as mlx_lm writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .checks import Choice, OneOf, check_fields, setting

FIELD = "quantization"
COPY = "quantization_config"
"""The same under the name that the Hub's pages read."""
_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Quantization:
    """MLX's affine quantisation: groups of weights share a scale and an offset."""

    group_size: int = setting(64, OneOf(_GROUPS))
    bits: int = setting(8, OneOf((4, 8)))
    mode: str = setting("affine", Choice(("affine",)))

    def __post_init__(self) -> None:
        check_fields(self)

    def check_inputs(self, name: str, count: int) -> None:
        """Refuse a layer whose inputs are no whole groups, with the sizes that would do."""
        if count % self.group_size:
            fit = " or ".join(str(size) for size in _GROUPS if count % size == 0)
            raise ValueError(
                f"group_size={self.group_size} does not divide the {count} inputs of {name}: "
                f"expected {fit or 'a layer whose inputs 32 divides'}"
            )

    def to_json(self) -> dict[str, object]:
        """What config.json gets."""
        return {FIELD: asdict(self), COPY: asdict(self)}


def read_quantization(content: dict[str, object]) -> Quantization | None:
    """Take the quantisation out of what config.json holds; ``None`` without one."""
    given = content.pop(FIELD, None)
    content.pop(COPY, None)
    if given is None:
        return None
    known = set(Quantization.__dataclass_fields__)
    if not isinstance(given, Mapping) or set(given) - known:
        raise ValueError(f"{FIELD}={given!r}: expected an object of {', '.join(sorted(known))}")
    return Quantization(**given)
