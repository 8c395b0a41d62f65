"""Draw docs/images/architecture.svg, the figure of the model: `python docs/site/architecture.py`."""

from pathlib import Path

OUT = Path(__file__).parents[1] / 'images' / 'architecture.svg'
WIDTH, HEIGHT = 1120, 424
MEMORY, PROCESS, INK, FAINT = '#1864ab', '#d9480f', '#1f2933', '#66727f'
TINTS = {MEMORY: '#e7f1fa', PROCESS: '#fdeee6', INK: '#f1f3f5', FAINT: '#ffffff'}
TOP, BOTTOM, MIDDLE = 112, 312, 212  # heights of the memory stream, the process stream and the heads


def text(
    x: float, y: float, words: str, size: int = 13, colour: str = INK, weight: int = 400, anchor: str = 'middle'
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, colour: str, *lines: str, corner: int = 8) -> str:
    """Draw a box around its centre, with its first line in bold."""
    shape = (
        f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="{corner}" '
        f'fill="{TINTS[colour]}" stroke="{colour}" stroke-width="1.6"/>'
    )
    start = y + 5 - 8.5 * (len(lines) - 1)
    words = [
        text(x, start + 17 * row, line, 13 if row == 0 else 11, colour if row == 0 else FAINT, 600 if row == 0 else 400)
        for row, line in enumerate(lines)
    ]
    return '\n'.join([shape, *words])


def arrow(colour: str, *points: tuple[float, float], dashed: bool = False) -> str:
    path = 'M' + ' L'.join(f'{x},{y}' for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ''
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash} marker-end="url(#{NAMES[colour]})"/>'


NAMES = {MEMORY: 'memory', PROCESS: 'process', INK: 'ink'}


def plus(x: float, y: float, colour: str) -> str:
    """Draw the fusion, a sum in the published models."""
    return (
        f'<circle cx="{x}" cy="{y}" r="11" fill="#fff" stroke="{colour}" stroke-width="2"/>'
        f'<path d="M{x - 6},{y} h12 M{x},{y - 6} v12" stroke="{colour}" stroke-width="2"/>'
    )


def tokens(x: float, y: float, side: float, number: int, colour: str) -> str:
    """Draw a square of ``number`` × ``number`` tokens around its centre."""
    step = side / number
    opacity = [0.35 + 0.5 * (index % 7) / 6 for index in range(8 * number)]
    return '\n'.join(
        f'<rect x="{x - side / 2 + column * step + 1:g}" y="{y - side / 2 + row * step + 1:g}" width="{step - 2:g}" '
        f'height="{step - 2:g}" rx="1.5" fill="{colour}" fill-opacity="{opacity[3 * row + 5 * column]:.2f}"/>'
        for row in range(number)
        for column in range(number)
    )


def photograph(x: float, y: float, side: float) -> str:
    """Draw a small landscape around its centre."""
    left, top, bottom = x - side / 2, y - side / 2, y + side / 2
    return f"""<clipPath id="frame"><rect x="{left}" y="{top}" width="{side}" height="{side}" rx="6"/></clipPath>
<g clip-path="url(#frame)">
<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#bfe0f5"/>
<circle cx="{x + 22}" cy="{top + 24}" r="11" fill="#ffd43b"/>
<path d="M{left},{y + 14} q25,-34 50,-6 q22,-30 54,2 V{bottom} H{left} Z" fill="#74b816"/>
<path d="M{left},{y + 30} q40,-22 {side},4 V{bottom} H{left} Z" fill="#2b8a3e"/>
<path d="M{left},{bottom - 14} q48,-12 {side},-2 V{bottom} H{left} Z" fill="#1c7ed6"/>
</g>"""


def embeddings() -> list[str]:
    return [
        photograph(66, MIDDLE, 92),
        text(66, MIDDLE + 66, 'image', 13, INK, 600),
        arrow(MEMORY, (66, MIDDLE - 50), (66, TOP), (150, TOP)),
        arrow(PROCESS, (66, MIDDLE + 76), (66, BOTTOM), (150, BOTTOM)),
        tokens(202, TOP, 92, 8, MEMORY),
        tokens(202, BOTTOM, 92, 4, PROCESS),
        text(202, TOP - 58, 'memory tokens', 13, MEMORY, 600),
        text(202, BOTTOM + 66, 'process tokens', 13, PROCESS, 600),
        text(202, BOTTOM + 83, 'fewer, larger patches', 11, FAINT),
        text(202, TOP + 64, 'small patches', 11, FAINT),
    ]


def block() -> list[str]:
    return [
        '<rect x="282" y="32" width="612" height="368" rx="16" fill="#fafbfc" stroke="#c3cad2" stroke-width="1.4"/>',
        text(588, 56, 'block, repeated L times', 13, FAINT, 600),
        arrow(MEMORY, (250, TOP), (312, TOP)),
        arrow(PROCESS, (250, BOTTOM), (312, BOTTOM)),
        arrow(MEMORY, (348, TOP), (648, TOP)),
        arrow(PROCESS, (348, BOTTOM), (474, BOTTOM)),
        box(330, TOP, 34, 30, FAINT, 'LN', corner=6),
        box(330, BOTTOM, 34, 30, FAINT, 'LN', corner=6),
        # read
        arrow(MEMORY, (400, TOP), (400, MIDDLE - 24)),
        arrow(PROCESS, (400, BOTTOM), (400, MIDDLE + 24), dashed=True),
        box(400, MIDDLE, 92, 44, PROCESS, 'read head', 'linear attention'),
        arrow(PROCESS, (448, MIDDLE), (486, MIDDLE), (486, BOTTOM - 13)),
        plus(486, BOTTOM, PROCESS),
        # ViT block
        arrow(PROCESS, (498, BOTTOM), (522, BOTTOM)),
        box(578, BOTTOM, 108, 76, PROCESS, 'ViT block', 'self-attention', 'and MLP'),
        arrow(PROCESS, (634, BOTTOM), (648, BOTTOM)),
        box(668, TOP, 34, 30, FAINT, 'LN', corner=6),
        box(668, BOTTOM, 34, 30, FAINT, 'LN', corner=6),
        # write
        arrow(MEMORY, (686, TOP), (820, TOP)),
        arrow(PROCESS, (686, BOTTOM), (938, BOTTOM)),
        arrow(PROCESS, (746, BOTTOM), (746, MIDDLE + 24)),
        arrow(MEMORY, (746, TOP), (746, MIDDLE - 24), dashed=True),
        box(746, MIDDLE, 92, 44, MEMORY, 'write head', 'linear attention'),
        arrow(MEMORY, (794, MIDDLE), (833, MIDDLE), (833, TOP + 13)),
        plus(833, TOP, MEMORY),
        arrow(MEMORY, (845, TOP), (938, TOP)),
        text(486, 380, 'quadratic cost, in the few process tokens only', 12, PROCESS),
        text(486, 84, 'no computation on the memory but the write', 12, MEMORY),
    ]


def outputs() -> list[str]:
    return [
        tokens(976, TOP, 64, 8, MEMORY),
        tokens(976, BOTTOM, 64, 4, PROCESS),
        text(976, TOP - 42, 'fine maps', 12, MEMORY, 600),
        text(976, BOTTOM + 52, 'coarse maps', 12, PROCESS, 600),
        arrow(MEMORY, (1012, TOP), (1062, TOP), (1062, MIDDLE - 30)),
        arrow(PROCESS, (1012, BOTTOM), (1062, BOTTOM), (1062, MIDDLE + 30)),
        box(1062, MIDDLE, 84, 56, INK, 'head', 'decode head', 'or classifier'),
    ]


def legend() -> list[str]:
    return [
        arrow(INK, (300, 414), (330, 414)),
        text(338, 418, 'tokens, source', 11, FAINT, anchor='start'),
        arrow(INK, (438, 414), (468, 414), dashed=True),
        text(476, 418, 'query', 11, FAINT, anchor='start'),
        f'<g transform="translate(530 414) scale(.7)">{plus(0, 0, INK)}</g>',
        text(544, 418, 'fusion: a sum', 11, FAINT, anchor='start'),
    ]


def figure() -> str:
    """Return the SVG."""
    markers = [
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 Z" fill="{colour}"/></marker>'
        for colour, name in NAMES.items()
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">'
        '<title>Architecture of ViTTM: in every block, process tokens read from the memory and write to it</title>'
    )
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>'
    parts = [head, '<defs>', *markers, '</defs>', background, *embeddings(), *block(), *outputs(), *legend(), '</svg>']
    return '\n'.join(parts) + '\n'


if __name__ == '__main__':
    OUT.write_text(figure(), encoding='utf-8')
