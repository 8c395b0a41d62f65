"""Draw a model's predictions on images and videos.

The model is a config with its checkpoint, or a file that tools/deployment/export.py wrote. A segmentor's classes are
painted on the image, with a legend and their shares of the pixels. A classifier's five likeliest classes are listed.
"""

import argparse
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from mmvittm.apis.cli import device, run_tool
from mmvittm.apis.data import IMAGE_SUFFIXES
from mmvittm.apis.inference import Predictor, is_named, read_image
from mmvittm.deploy.predict import load_predictor
from mmvittm.errors import UserError, error_text
from mmvittm.fileio import atomic_path, require_writable

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm')
FONT_SIZE = 14
LINE = 20  # height of a legend line, in pixels
LEAST_LINES = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='image, video, or folder of images and videos')
    parser.add_argument('model', type=Path, help='config, or exported file (.onnx, .xml)')
    parser.add_argument('checkpoint', type=Path, nargs='?', help='checkpoint file of a config')
    parser.add_argument('--out', type=Path, default=Path('painted'), metavar='DIR', help='folder (default: painted)')
    parser.add_argument('--device', type=device, default='cpu', help='of a config: cuda, cuda:1 … (default: cpu)')
    return parser.parse_args()


def paint(image: np.ndarray, predictor: Predictor, source: Path) -> np.ndarray:
    """Draw the prediction for ``image``, with a legend at the right that is wide enough for all classes."""
    classes = predictor.classes
    try:
        image, legend = predictor.task.draw(image, predictor.predict(image), classes, predictor.palette)
    except Exception as error:  # what a model raises for an odd image depends on the model
        size = '×'.join(map(str, image.shape[:2]))
        raise UserError(f'{source} of {size} pixels cannot be painted: {error_text(error)}') from error
    font = ImageFont.load_default(FONT_SIZE)
    width = int(max(font.getlength(f'100% {name}') for name in classes)) + 2 * LINE
    height = max(len(image), LEAST_LINES * LINE)
    canvas = Image.new('RGB', (image.shape[1] + width, height), 'white')
    canvas.paste(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
    draw = ImageDraw.Draw(canvas)
    left, room = image.shape[1] + 4, height // LINE
    if len(legend) > room:
        legend = [*legend[: room - 1], (None, f'and {len(legend) - room + 1} more')]
    for row, (colour, text) in enumerate(legend):
        top = row * LINE
        if colour:
            draw.rectangle((left, top + 4, left + 12, top + 16), fill=colour, outline='grey')
        draw.text((left + (18 if colour else 0), top + 2), text, fill='black', font=font)
    return np.asarray(canvas)[..., ::-1]


def paint_image(source: Path, out: Path, predictor: Predictor, progress: Progress) -> None:
    painted = paint(read_image(source), predictor, source)
    with atomic_path(out) as path:
        mmcv.imwrite(painted, str(path))  # unlike cv2.imwrite, it raises an error on a full disk


def paint_video(source: Path, out: Path, predictor: Predictor, progress: Progress) -> None:
    video = mmcv.VideoReader(str(source))
    if not video.opened or video.frame_cnt < 1:
        raise UserError(f'video {source} cannot be read: it is damaged or of an unknown format')
    step = progress.add_task(escape(source.name), total=video.frame_cnt)
    with atomic_path(out) as path:
        writer, frames = None, 0
        while (frame := video.read()) is not None:  # not by index: the header may promise more frames than there are
            painted = paint(frame, predictor, source)
            if writer is None:
                size = painted.shape[1::-1]
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), video.fps or 25, size)
            writer.write(np.ascontiguousarray(painted))
            frames += 1
            progress.advance(step)
        if writer is None or not writer.isOpened():
            raise UserError(f'video {source} cannot be read or written as MP4')
        writer.release()
        if mmcv.VideoReader(str(path)).frame_cnt < frames:  # OpenCV reports no full disk
            raise UserError(f'video {out} cannot be written: free some space and start again')
    progress.remove_task(step)


def jobs(source: Path, out: Path) -> list[tuple]:
    """List the function, input and output for each image and video in ``source``."""
    if not source.exists():
        raise UserError(f'image, video or folder not found: {source}')
    if out.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise UserError(f'--out {out} is the folder of the images: choose another')
    found = [
        (paint_image, path, out / path.name)
        if path.suffix.lower() in IMAGE_SUFFIXES
        else (paint_video, path, out / f'{path.name}.mp4')
        for path in (sorted(source.iterdir()) if source.is_dir() else [source])
        if is_named(path, IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    ]
    if not found:
        suffixes = ', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise UserError(f'no image or video ({suffixes}) in {source}; its subfolders are not searched')
    return found


def main() -> None:
    args = parse_args()
    todo = jobs(args.source, args.out)
    predictor = load_predictor(args.model, args.checkpoint, args.device)
    require_writable(args.out)
    failed = []
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        for paint_file, path, out in progress.track(todo, description='painting'):
            try:
                paint_file(path, out, predictor, progress)
            except UserError as error:
                failed.append(error)
                console.print(str(error), style='yellow', markup=False, soft_wrap=True)
    print(f'{len(todo) - len(failed)} of {len(todo)} files painted to {args.out}')
    if failed:
        reason = failed[0] if len(failed) == 1 else 'see above'
        raise UserError(f'{len(failed)} of {len(todo)} files failed: {reason}')


if __name__ == '__main__':
    run_tool(main)
