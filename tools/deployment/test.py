"""Test an exported model on a config's test data: what did the export, or int8, cost?

Preprocessing, metrics and data set are the config's; the exported file computes the logits.
"""

import argparse
from pathlib import Path

from mmengine.runner import Runner

from mmvittm.deploy import format_of
from mmvittm.deploy.card import ModelCard
from mmvittm.deploy.predict import run_exported
from mmvittm.errors import UserError
from mmvittm.utils.cli import run_tool
from mmvittm.utils.data import check_data
from mmvittm.utils.runner import add_common_arguments, build_runner, config_from


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('exported', type=Path, help='file that tools/deployment/export.py wrote')
    parser.add_argument('--dtype', help='what to compute in (default: what the file was exported for)')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = config_from(args)
    session = format_of(args.exported).load(args.exported, args.dtype)
    card = ModelCard.from_dict(session.metadata, args.exported)
    check_data(cfg, 'test_dataloader')
    # the metrics of single streams: an exported classifier hands out the prediction that counts
    cfg.test_evaluator = _without_streams(cfg.test_evaluator)
    runner: Runner = build_runner(cfg)
    preprocess = runner.model.data_preprocessor.forward

    def checked(data: dict, training: bool = False) -> dict:
        inputs = (out := preprocess(data, training))['inputs']
        if tuple(inputs.shape[2:]) != card.shape:
            raise UserError(
                '{} takes images of {}×{} and the test pipeline gives {}×{}: export it for that shape'.format(
                    args.exported, *card.shape, *inputs.shape[2:]
                )
            )
        return out

    runner.model.data_preprocessor.forward = checked
    run_exported(runner.model, session)
    runner.test()


def _without_streams(evaluators: dict | list) -> dict | list:
    if isinstance(evaluators, dict):
        return evaluators
    return [evaluator for evaluator in evaluators if evaluator['type'] != 'mmvittm.StreamAccuracy']


if __name__ == '__main__':
    run_tool(main)
