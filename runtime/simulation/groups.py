"""Devices of a node that serve a stage together, in tensor parallel, as one device.

The one idea: a group has the memory and the rates of all its devices, and after each of a layer's
two halves they tell each other their parts of the sums. It goes by a name of its own, `KIND*2:0`.
"""

from dataclasses import dataclass, replace

from scheduling.roofline import LinkRate, ModelShape, all_reduce_time_s
from scheduling.split import StageDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How many devices, and what lies between them; one alone has nobody to tell."""

    degree: int = 1
    link: LinkRate | None = None

    def told_s(self, num_layers: int, num_bytes: float) -> float:
        """Seconds in which a step's hidden states of so many bytes are summed up in all layers."""
        if self.link is None or self.degree == 1:
            return 0.0
        return 2 * num_layers * all_reduce_time_s(self.link, self.degree, num_bytes)

    def measured(self, rates: StageDevice, shape: ModelShape) -> StageDevice:
        """What its worker finds of it by trying it out: rates with what is told in them.

        Bytes that are told cost a token so much more arithmetic, latencies every layer as much.
        """
        if self.degree == 1:
            return rates
        told_s = self.told_s(1, shape.token_bytes)
        start_s = self.told_s(1, 0.0)
        operations = 2.0 * shape.active_parameters
        token_s = operations / rates.flops_per_s + told_s - start_s
        return replace(
            rates,
            flops_per_s=operations / token_s,
            layer_overhead_s=rates.layer_overhead_s + start_s,
        )


ALONE = Group()


def name_of(kind: str, devices: tuple[int, ...]) -> str:
    """What a node offers some of its devices under.

    Example:
        >>> name_of("A40", (2,)), name_of("A40", (2, 3))
        ('A40:2', 'A40*2:2')
    """
    width = f"*{len(devices)}" if len(devices) > 1 else ""
    return f"{kind}{width}:{devices[0]}"


def parts_of(name: str) -> tuple[str, int]:
    """Kind and number of the devices that go by a name, with its index or without.

    Example:
        >>> parts_of("A40*2:2"), parts_of("A40:0"), parts_of("A40")
        (('A40', 2), ('A40', 1), ('A40', 1))
    """
    kind, _, width = name.partition(":")[0].partition("*")
    return kind, int(width or 1)
