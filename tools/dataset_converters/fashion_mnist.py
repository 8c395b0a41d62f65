"""Convert Fashion-MNIST, from the Debian package dataset-fashion-mnist, to the folder layout of mmpretrain."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from image_folders import Split, convert

from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError

SOURCE = Path('/usr/share/datasets/fashion-mnist')
FILES = {'train': 'train', 'val': 't10k'}  # file name prefixes of the splits
CLASSES = (
    't-shirt',
    'trouser',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'ankle-boot',
)


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: number of dimensions, shape, values (big-endian).

    Raises:
        UserError: If the file is missing or has another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        type_code, dimensions = struct.unpack_from('>HBB', content)[1:]
        shape = struct.unpack_from(f'>{dimensions}I', content, 4)
        if type_code != 8:
            raise ValueError(f'element type {type_code:#x} instead of bytes')
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except FileNotFoundError:
        raise UserError(f'{path} is missing: run `apt-get install dataset-fashion-mnist` on Debian') from None
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(
            f'{path} cannot be read ({error}): run `apt-get install --reinstall dataset-fashion-mnist`'
        ) from error


def read() -> dict[str, Split]:
    """Read the 60,000 training images and, as validation split, the 10,000 test images."""
    return {
        split: Split(
            read_idx(SOURCE / f'{start}-images-idx3-ubyte.gz'), read_idx(SOURCE / f'{start}-labels-idx1-ubyte.gz')
        )
        for split, start in FILES.items()
    }


def main() -> None:
    convert(__doc__, out_dir='data/fashion_mnist', classes=CLASSES, read=read)


if __name__ == '__main__':
    run_tool(main)
