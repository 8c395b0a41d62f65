"""Test an exported model on a config's test data, to see what the export, or int8, costs.

Data set, preprocessing and metrics are the config's; the logits come from the exported file.
"""

import argparse
from pathlib import Path

from mmvittm.apis.cli import add_common_arguments, run_tool
from mmvittm.apis.config_errors import explain_config_errors
from mmvittm.apis.data import check_data
from mmvittm.apis.runner import build_runner, config_from_args
from mmvittm.deploy.predict import load_exported, run_exported


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('exported', type=Path, help='file that tools/deployment/export.py wrote')
    dtype_help = 'data type to compute in; int8 needs an export for int8 (default: that of the export)'
    parser.add_argument('--dtype', choices=('fp32', 'bf16', 'int8'), help=dtype_help)
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = config_from_args(args)
    session, metadata = load_exported(args.exported, args.dtype)
    cfg.load_from, cfg.resume = None, False  # the weights are in the export
    with explain_config_errors(cfg):
        check_data(cfg, 'test_dataloader')
        cfg.test_evaluator = _without_streams(cfg.test_evaluator)
        runner = build_runner(cfg, args.allow_pickle, args.verbose)
        run_exported(runner.model, session, metadata)
        runner.test()


def _without_streams(evaluators: dict | list) -> dict | list:
    """Drop the metrics of single streams: an exported classifier returns one prediction."""
    if isinstance(evaluators, dict):
        return evaluators
    return [evaluator for evaluator in evaluators if evaluator['type'] != 'mmvittm.StreamAccuracy']


if __name__ == '__main__':
    run_tool(main)
