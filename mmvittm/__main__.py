"""The command ``mmvittm``: ``mmvittm train CONFIG`` runs tools/train.py of the installed package, and so on."""

import ast
import importlib.util
import re
import sys

from . import configs_dir

TOOLS = configs_dir().parent / 'tools'
COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'predict': 'image_demo.py',
    'scene': 'scene_demo.py',
    'scene-influence': 'scene_influence.py',
    'memory': 'visualize_memory.py',
    'fps': 'fps_benchmark.py',
    'study': 'study.py',
    'demo': 'demo.py',
    'publish': 'publish_model.py',
    'export': 'deployment/export.py',
    'test-export': 'deployment/test.py',
    'convert from-authors': 'model_converters/vittm_to_mmvittm.py',
    'convert to-authors': 'model_converters/mmvittm_to_vittm.py',
    'convert from-vit': 'model_converters/vit_to_mmvittm.py',
    'data blue-marble': 'dataset_converters/blue_marble.py',
    'data blue-marble-scene': 'dataset_converters/blue_marble_scene.py',
    'data digit-scenes': 'dataset_converters/digit_scenes.py',
    'data mnist': 'dataset_converters/mnist.py',
    'data fashion-mnist': 'dataset_converters/fashion_mnist.py',
}


def summary(tool: str) -> str:
    """Return the beginning of a tool's docstring, up to a colon or a full stop."""
    return re.split(r'[.:]\s|\.$', ast.get_docstring(ast.parse((TOOLS / tool).read_text(encoding='utf-8'))))[0]


def usage(group: str = '') -> str:
    """List the commands of a group such as ``data``, all if there is no such group."""
    listed = [command for command in COMMANDS if command.startswith(f'{group} ')] or list(COMMANDS)
    lines = [f'  {command:24}{summary(COMMANDS[command])}' for command in listed]
    return '\n'.join(['usage: mmvittm COMMAND …, with --help for the arguments of one', '', *lines])


def main() -> None:
    """Run the tool that the first one or two words name."""
    words = sys.argv[1:]
    for count in (2, 1):
        command = ' '.join(words[:count])
        if command in COMMANDS:
            break
    else:
        text = usage(*words[:1])
        asked = not words or {'-h', '--help'} & set(words)
        sys.exit(print(text) if asked else f'{text}\n\nerror: no such command: {" ".join(words[:2])}')
    tool = TOOLS / COMMANDS[command]
    sys.argv = [f'mmvittm {command}', *words[count:]]  # the name in its help
    sys.path.insert(0, str(tool.parent))  # as for a script
    script = importlib.util.spec_from_file_location('__main__', tool)
    script.loader.exec_module(importlib.util.module_from_spec(script))


if __name__ == '__main__':
    main()
