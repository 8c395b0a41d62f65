"""Imports of the libraries for tools that tests fork, and the entry point of such a tool."""

import atexit
import gc
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import mmpretrain.apis
import mmseg.apis
import pandas as pd
from yapf.yapflib import yapf_api

import mmvittm.apis.runner

PRELOADED = (plt, pd, mmpretrain.apis, mmseg.apis, mmvittm.apis.runner)
gc.freeze()  # collections, which mmengine's data sets ask for, need not visit what all forks share
# yapf lays out each config several times, in half of the time that a small tool takes
yapf_api.FormatCode = lambda text, **options: (text, True)


def run_script(argv, folder, environment, stdout, stderr):
    """Run a script as ``python argv[0] argv[1] …`` in ``folder``, with its output in two files."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method('fork', force=True)  # as in a script
    sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
    with stdout.open('w', encoding='utf-8') as sys.stdout, stderr.open('w', encoding='utf-8') as sys.stderr:
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stderr.fileno(), 2)
        try:
            runpy.run_path(argv[0], run_name='__main__')
        except SystemExit as stopped:
            if isinstance(stopped.code, str):
                sys.exit(print(stopped.code, file=sys.stderr) or 1)
            raise
        finally:
            atexit._run_exitfuncs()  # as at the end of a script, which multiprocessing leaves out
