"""Paint pictures, folders of pictures and videos with what a model sees in them.

The model is a config with its checkpoint, or a file that tools/deployment/export.py wrote. Segmentors paint the
picture, beside a legend of the classes in it; of a classifier the five likeliest classes stand beside it.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import Progress

from mmvittm.apis.cli import run_tool
from mmvittm.deploy.images import IMAGE_SUFFIXES, read_image
from mmvittm.deploy.predict import Predictor, predictor
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, require_writable

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm')
FONT_SIZE = 14
LINE = 20  # pixels from line to line of the legend
LEAST_LINES = 6
OPACITY = 0.5

Line = tuple[tuple[int, ...] | None, str]  # a colour, or none, and a text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='image, video, or folder of both')
    parser.add_argument('model', type=Path, help='config, or exported file (.onnx, .xml)')
    parser.add_argument('checkpoint', type=Path, nargs='?', help='checkpoint file, if the model is a config')
    parser.add_argument('--out', type=Path, default=Path('painted'), metavar='DIR', help='(default: painted)')
    return parser.parse_args()


def segments(image: np.ndarray, labels: np.ndarray, model: Predictor) -> tuple[np.ndarray, list[Line]]:
    """The picture painted with the classes, and those that are in it, the largest first."""
    palette = np.array(model.palette, np.uint8)
    painted = cv2.addWeighted(image, 1 - OPACITY, palette[labels][..., ::-1], OPACITY, 0)
    pixels = np.bincount(labels.ravel(), minlength=len(palette))
    present = [index for index in np.argsort(-pixels) if pixels[index]]
    return painted, [
        (tuple(model.palette[index]), f'{model.classes[index]} {pixels[index] / labels.size:.0%}') for index in present
    ]


def scores(image: np.ndarray, scores: np.ndarray, model: Predictor) -> tuple[np.ndarray, list[Line]]:
    """The picture as it is, and the five likeliest classes."""
    best = np.argsort(-scores)[:5]
    return image, [(None, f'{scores[index]:.0%} {model.classes[index]}') for index in best]


#: How the result of each task is shown.
SHOW = dict(segmentation=segments, classification=scores)


def paint(image: np.ndarray, model: Predictor) -> np.ndarray:
    """Run the model and put its result beside ``image``; the size depends on the image and the model alone."""
    painted, lines = SHOW[model.task.name](image, model(image), model)
    return beside(painted, lines, model.classes)


def beside(image: np.ndarray, lines: Sequence[Line], names: Sequence[str]) -> np.ndarray:
    """Put a legend of ``lines`` to the right of ``image``, as wide as the longest of ``names`` needs."""
    font = ImageFont.load_default(FONT_SIZE)
    width = int(max(font.getlength(f'100% {name}') for name in names)) + 2 * LINE
    height = max(len(image), LEAST_LINES * LINE)
    canvas = Image.new('RGB', (image.shape[1] + width, height), 'white')
    canvas.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
    draw = ImageDraw.Draw(canvas)
    left, room = image.shape[1] + 4, height // LINE
    if len(lines) > room:
        lines = [*lines[: room - 1], (None, f'and {len(lines) - room + 1} more')]
    for row, (colour, text) in enumerate(lines):
        top = row * LINE
        if colour:
            draw.rectangle((left, top + 4, left + 12, top + 16), fill=colour, outline='grey')
        draw.text((left + (18 if colour else 0), top + 2), text, fill='black', font=font)
    return np.asarray(canvas)[..., ::-1]


def paint_image(source: Path, out: Path, model: Predictor, progress: Progress) -> None:
    painted = paint(read_image(source), model)
    with atomic_path(out) as path:
        cv2.imwrite(str(path), painted)


def paint_video(source: Path, out: Path, model: Predictor, progress: Progress) -> None:
    video = mmcv.VideoReader(str(source))
    if not video.opened or video.frame_cnt < 1:
        raise UserError(f'video {source} cannot be read: it is damaged or of an unknown kind')
    step = progress.add_task(source.name, total=video.frame_cnt)
    with atomic_path(out) as path:
        writer = None
        for frame in _frames(video):
            painted = paint(frame, model)
            if writer is None:
                size = painted.shape[1::-1]
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), video.fps or 25, size)
            writer.write(np.ascontiguousarray(painted))
            progress.advance(step)
        if writer is None or not writer.isOpened():
            raise UserError(f'video {source} cannot be read or written as MP4')
        writer.release()
    progress.remove_task(step)


def _frames(video: mmcv.VideoReader) -> Iterator[np.ndarray]:
    """All frames that can be read: the number in a video's header may be too high."""
    while (frame := video.read()) is not None:
        yield frame


def jobs(source: Path, out: Path) -> list[tuple]:
    """What to do for each file: how to paint it, from where, to where."""
    if not source.exists():
        raise UserError(f'image, folder or video not found: {source}')
    if out.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise UserError(f'--out {out} is the folder of the pictures themselves: choose another')
    found = [
        (paint_image, path, out / path.name)
        if path.suffix.lower() in IMAGE_SUFFIXES
        else (paint_video, path, out / f'{path.name}.mp4')
        for path in (sorted(source.iterdir()) if source.is_dir() else [source])
        if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
    ]
    if not found:
        raise UserError(f'{source} is or holds no image or video ({", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})')
    return found


def main() -> None:
    args = parse_args()
    todo = jobs(args.source, args.out)
    model = predictor(args.model, args.checkpoint)
    require_writable(args.out)
    failed = []
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        for paint_file, path, out in progress.track(todo, description='painting'):
            try:
                paint_file(path, out, model, progress)
            except UserError as error:
                failed.append(error)
                console.print(f'[yellow]{error}', soft_wrap=True)
    Console(soft_wrap=True).print(f'{len(todo) - len(failed)} of {len(todo)} files painted to {args.out}')
    if failed:
        raise UserError(f'{len(failed)} of {len(todo)} files were left out: {"; ".join(map(str, failed))}')


if __name__ == '__main__':
    run_tool(main)
