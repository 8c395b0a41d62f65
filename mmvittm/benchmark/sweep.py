"""What can be swept: the same configs timed again with another value of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..apis.config import load_config
from ..errors import UserError
from .contender import Setup, Subject


@dataclass(frozen=True)
class Sweepable:
    """How a value is applied to a setup, and what the latency is plotted against.

    Args:
        apply (Callable): Gives the setup with that value.
        size (Callable): The size of a subject that was made so.
        unit (str): What that size counts.
    """

    apply: Callable[[Setup, int], Setup]
    size: Callable[[Subject, int], float]
    unit: str


def _memory_patch(setup: Setup, value: int) -> Setup:
    """Another memory patch; a config without one, such as a ViT, stays as it is: the constant to compare with."""
    backbone = load_config(setup.config, setup.cfg_options).model.get('backbone', {})
    if 'patch_size' not in backbone.get('memory_embed', {}):
        return setup
    return replace(setup, cfg_options=setup.cfg_options | {'model.backbone.memory_embed.patch_size': value})


SWEEPS: dict[str, Sweepable] = {
    'shape': Sweepable(
        apply=lambda setup, value: replace(setup, shape=(value, value)),
        size=lambda subject, value: subject.images.shape[2] * subject.images.shape[3],
        unit='pixels',
    ),
    'batch-size': Sweepable(
        apply=lambda setup, value: replace(setup, batch_size=value),
        size=lambda subject, value: value,
        unit='images',
    ),
    'memory-patch': Sweepable(apply=_memory_patch, size=lambda subject, value: value, unit='pixels of patch side'),
}


@dataclass(frozen=True)
class Sweep:
    """One of :data:`SWEEPS` and the values it takes."""

    name: str
    values: Sequence[int]

    @classmethod
    def parse(cls, text: str) -> 'Sweep':
        """From ``name=value,value,…``.

        Raises:
            UserError: If nothing can be swept by that name, or a value is not a whole number above 0.
        """
        name, _, listed = text.partition('=')
        if name not in SWEEPS:
            raise UserError(f'--sweep {text}: {name!r} cannot be swept, choose one of {", ".join(SWEEPS)}')
        values = listed.split(',')
        for value in values:
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f'--sweep {text}: {value!r} is not a whole number above 0')
        if len(set(values)) < len(values) or len(values) < 2:
            raise UserError(f'--sweep {text}: give two or more different values')
        return cls(name, [int(value) for value in values])

    def setups(self, setups: Sequence[Setup], value: int) -> list[Setup]:
        return [SWEEPS[self.name].apply(setup, value) for setup in setups]

    def describe(self, value: int, subject: Subject) -> dict:
        """What a row says about it: the value asked for, and the size that the subject really has."""
        sweepable = SWEEPS[self.name]
        return dict(name=self.name, value=value, size=sweepable.size(subject, value), unit=sweepable.unit)
