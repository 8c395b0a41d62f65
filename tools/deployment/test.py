"""Test an exported model on a config's test data: what did the export, or int8, cost?

Preprocessing, metrics and data set are the config's; the exported file computes the logits.
"""

import argparse
from pathlib import Path

from mmvittm.apis.cli import add_common_arguments, run_tool
from mmvittm.apis.data import check_data
from mmvittm.apis.runner import build_runner, config_from_args
from mmvittm.deploy import format_of
from mmvittm.deploy.metadata import ModelCard
from mmvittm.deploy.predict import run_exported


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('exported', type=Path, help='file that tools/deployment/export.py wrote')
    parser.add_argument('--dtype', help='what to compute in (default: what the file was exported for)')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = config_from_args(args)
    session = format_of(args.exported).load(args.exported, args.dtype)
    card = ModelCard.from_dict(session.metadata, args.exported)
    check_data(cfg, 'test_dataloader')
    # the metrics of single streams: an exported classifier hands out the prediction that counts
    cfg.test_evaluator = _without_streams(cfg.test_evaluator)
    runner = build_runner(cfg)
    run_exported(runner.model, session, card)
    runner.test()


def _without_streams(evaluators: dict | list) -> dict | list:
    if isinstance(evaluators, dict):
        return evaluators
    return [evaluator for evaluator in evaluators if evaluator['type'] != 'mmvittm.StreamAccuracy']


if __name__ == '__main__':
    run_tool(main)
