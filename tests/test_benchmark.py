"""The FPS instrument without its tool: statistics, rounds, what backends compute, ceiling, memory, parts, sweeps."""

import itertools
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

from mmvittm.benchmark import markdown
from mmvittm.benchmark.backends import BACKENDS, Way, training_step
from mmvittm.benchmark.ceiling import MatrixProducts, product_run
from mmvittm.benchmark.complexity import count_macs, count_step_macs
from mmvittm.benchmark.contender import patch_sizes
from mmvittm.benchmark.machine import cpu_name
from mmvittm.benchmark.measurement import highest_rates, own_rates
from mmvittm.benchmark.memory import peak_on_cpu
from mmvittm.benchmark.parts import REST, Stopwatch, time_parts
from mmvittm.benchmark.report import flat, growth, own_products_text, write_csv
from mmvittm.benchmark.statistics import Spread, growth_exponent, median_interval, outliers, speed_ratios
from mmvittm.benchmark.sweep import Sweep
from mmvittm.benchmark.timing import MIN_ROUNDS, Limits, round_orders, time_interleaved, warm_up
from mmvittm.errors import UserError
from mmvittm.models import ViTTM

# --- statistics ------------------------------------------------------------------------------------------------------


def test_spread_of_known_numbers():
    spread = Spread.of([*range(101), 10_000])
    assert (spread.median, spread.p10, spread.p90) == pytest.approx((50.5, 10.1, 90.9))
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 3.0, 3.0)
    assert Spread(median=10, p10=0, p90=0, low=9.5, high=10.5).precision == pytest.approx(0.05)


def test_median_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [median_interval(rng.lognormal(size=40)) for _ in range(400)]
    covered = np.mean([low <= 1 <= high for low, high in intervals])
    assert 0.91 < covered < 0.99
    assert intervals[0] == median_interval(np.random.default_rng(1).lognormal(size=40)), 'seeded'


def test_speed_ratios_pair_the_rounds():
    assert speed_ratios([10.0, 40.0], [5.0, 80.0]) == [2.0, 0.5]
    with pytest.raises(ValueError):
        speed_ratios([1.0], [1.0, 2.0])


def test_outliers_are_the_slow_ones():
    assert outliers([10, 11, 12, 13, 14, 30, 1]) == [30]
    assert outliers([5.0] * 4) == []


def test_growth_exponent():
    assert growth_exponent([1, 4, 16], [3, 3 * 4**1.5, 3 * 16**1.5]) == pytest.approx(1.5)


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_round_orders_are_balanced_and_seeded():
    orders = list(round_orders(4, rounds=20, seed=1))
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert all(second == first[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert len({tuple(order) for order in orders}) > 5
    assert orders == list(itertools.islice(round_orders(4, seed=1), 20)) != list(round_orders(4, rounds=20, seed=2))


def scripted(*times):
    """Runs named a, b, … and a timer that gives each its next time; a call is noted in the string it returns."""
    calls, scripts = [], {name: iter(own) for name, own in zip('abc', times, strict=False)}

    def timer(run):
        calls.append(run)
        return next(scripts[run])

    return list(scripts), timer, calls


def test_time_interleaved_sorts_the_times_by_run_and_round():
    runs, timer, calls = scripted([9.0, 9.0, 1.0, 2.0], [9.0, 9.0, 3.0, 4.0])
    seen = []
    limits = Limits(rounds=2, warmup=2)
    timing = time_interleaved(runs, limits, timer=timer, on_round=lambda seconds, times: seen.append(len(times[0])))
    assert ''.join(calls[:4]) == 'aabb'
    assert ''.join(calls[4:]) in ('abba', 'baab')
    assert timing.times == [[1.0, 2.0], [3.0, 4.0]]
    assert (timing.warmups, timing.ended_by, seen) == ([2, 2], 'rounds', [1, 2])


def test_rounds_go_on_until_everybody_is_precise():
    noisy = itertools.chain([5.0, 15.0] * 10, itertools.repeat(10.0))
    runs, timer, _ = scripted(itertools.repeat(1.0), noisy, itertools.cycle([1.0, 100.0]))
    timing = time_interleaved(runs, Limits(0.02, 1e9, warmup=0), judged=2, timer=timer)
    assert timing.ended_by == 'precision'
    assert MIN_ROUNDS < len(timing.orders) < 200
    assert [timing.stopped_by(i, 0.02) for i in range(3)] == ['precision', 'precision', 'precision']
    assert {len(times) for times in timing.times} == {len(timing.orders)}


def test_rounds_end_when_time_is_over():
    runs, timer, _ = scripted(itertools.repeat(1.0), itertools.cycle([1.0, 3.0]))
    timing = time_interleaved(runs, Limits(0.02, 24.5, warmup=0), timer=timer, clock=itertools.count().__next__)
    assert len(timing.orders) == 25
    assert timing.ended_by == 'max time'
    assert [timing.stopped_by(i, 0.02) for i in range(2)] == ['precision', 'max time']


@pytest.mark.parametrize(
    ('times', 'most', 'count'),
    [([9, 5, 5, 5], 20, 4), ([9, 8, 7, 6, 5, 5, 5.1], 20, 7), ([9, 8, 7, 6], 4, 4), ([1, 2, 3], 20, 3), ([], 0, 0)],
)
def test_warm_up_goes_on_until_times_settle(times, most, count):
    [run], timer, calls = scripted(times)
    assert warm_up(run, most, timer) == count == len(calls)


# --- backends --------------------------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


@pytest.mark.parametrize(
    ('way', 'tolerance'),
    [
        (Way(), 0),
        (Way(channels_last=True), 1e-5),
        (Way(dtype='bf16'), 2e-2),
        (Way(dtype='bf16', half_weights=True), 2e-2),
        (Way('compile'), 1e-5),
        (Way('onnxruntime', threads=1), 1e-5),
        (Way('openvino', threads=1), 1e-5),
        (Way('openvino', 'bf16', threads=1), 2e-2),
    ],
    ids=str,
)
def test_backends_compute_the_network(way, tolerance):
    for package in BACKENDS[way.backend].packages:
        pytest.importorskip(package)
    if way.backend == 'compile' and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('compiling takes minutes with older torch')
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    expected = network(images)
    way.check()
    output = BACKENDS[way.backend].prepare(network, images, way)()
    output = torch.as_tensor(output[0]) if isinstance(output, list) else output
    assert not output.requires_grad
    halved = way.backend == 'torch' and way.dtype == 'bf16'
    assert output.dtype == (torch.bfloat16 if halved else torch.float32)
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ('way', 'sentence'),
    [
        (Way('tensorrt'), "unknown backend 'tensorrt': choose one of torch, compile, onnxruntime, openvino"),
        (Way(dtype='int4'), "unknown dtype 'int4': choose one of fp32, bf16, fp16"),
        (Way(half_weights=True), '--half-weights casts to a half precision: add --dtype bf16 or fp16'),
        (Way(cuda_graph=True), '--cuda-graph captures a forward pass on the GPU'),
        (Way('openvino', device='cuda'), 'the backend openvino runs on cpu, not on cuda'),
        (Way('openvino', 'bf16', half_weights=True), 'the backend openvino has no --half-weights'),
        (Way('onnxruntime', channels_last=True), 'the backend onnxruntime has no --channels-last'),
        (Way('openvino', train=True), 'the backend openvino has no --train'),
        (Way('onnxruntime', 'bf16'), 'onnx does not run bf16'),
        (Way('openvino', 'fp16'), 'openvino does not run fp16'),
    ],
    ids=str,
)
def test_a_way_that_does_not_exist_is_refused(way, sentence):
    with pytest.raises(UserError, match=sentence):
        way.check()


def test_a_backend_that_is_not_installed_is_refused(monkeypatch):
    def import_module(name):
        raise ImportError(name)

    monkeypatch.setattr('mmvittm.deploy.base.import_module', import_module)
    with pytest.raises(UserError, match=r'needs the package openvino, which is not installed: .*mmvittm\[deploy\]'):
        Way('openvino').check()


def test_a_training_step_leaves_no_gradients_but_made_them():
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    seen = []
    network[3].weight.register_hook(lambda grad: seen.append(grad.clone()))
    training_step(network, images)()
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(seen[0], network[:3](images).sum(0).expand(5, -1))


# --- work, ceiling and memory ----------------------------------------------------------------------------------------


def test_training_steps_are_counted_with_their_backward_pass():
    network, images = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), torch.randn(10, 8)
    assert count_macs(network, images) == 10 * (8 * 4 + 4 * 2)
    forward_and_weights = 2 * 10 * (8 * 4 + 4 * 2)
    assert count_step_macs(training_step(network, images)) == forward_and_weights + 10 * 4 * 2

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    tokens = torch.randn(1, 2, 10, 4, requires_grad=True)
    step = count_step_macs(training_step(Attention(), tokens))
    assert step == (2 + 5) * 2 * 10**2 * 4, 'two products, then the scores again and four gradients'


def test_matrix_products_are_those_of_the_linear_layers():
    network = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 3))
    observed = MatrixProducts()
    count_macs(network, torch.randn(2, 5, 8), observed)
    assert observed.counts == {(10, 8, 32): 2, (10, 32, 8): 1, (10, 32, 3): 1}
    assert observed.largest(2) == [(10, 8, 32), (10, 32, 8)]
    assert product_run((10, 8, 32), torch.bfloat16)().shape == (10, 32)


def test_the_ceiling_is_the_highest_rate_of_each_dtype():
    times = {('fp32', (10, 20, 30)): [1.0, 1.0], ('fp32', (100, 20, 30)): [2.0, 2.0], ('bf16', (10, 20, 30)): [0.5]}
    ceilings = highest_rates(times)
    assert ceilings['fp32'].product == (100, 20, 30)
    assert ceilings['fp32'].gflops == pytest.approx(2 * 60_000 / 2e-3 / 1e9)
    assert ceilings['bf16'].gflops == pytest.approx(2 * 6_000 / 0.5e-3 / 1e9)


def test_own_products_are_those_of_the_network_and_dtype():
    times = {('fp32', (10, 20, 30)): [1.0, 2.0], ('fp32', (10, 20, 60)): [2.0, 1.0], ('bf16', (10, 20, 30)): [0.5, 0.5]}

    def rates(*products):
        subject = SimpleNamespace(products=list(products))
        return own_rates(SimpleNamespace(subject=subject, way=SimpleNamespace(dtype='fp32')), times)

    assert rates((10, 20, 30)) == pytest.approx([2 * 6_000 / 1e6, 2 * 6_000 / 2e6])
    assert rates((10, 20, 30), (10, 20, 60)) == pytest.approx([2 * 18_000 / 3e6] * 2)
    assert rates() == []
    assert own_products_text(dict(share_of_products=None)) == '–'


def test_peak_memory_is_what_a_pass_takes():
    if peak_on_cpu(lambda: None) is None:
        pytest.skip('the system does not tell')
    held = torch.ones(1000, 1000)
    peak = peak_on_cpu(lambda: torch.ones(30_000_000).sum() + held.sum())
    assert 110e6 < peak < 150e6


# --- parts -----------------------------------------------------------------------------------------------------------


def tiny_vittm() -> nn.Module:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    embeds = (dict(type='PatchTokens', patch_size=size) for size in (8, 16))
    names = ('memory_embed', 'process_embed')
    return ViTTM(arch=arch, img_size=32, out_stream='memory', **dict(zip(names, embeds, strict=True))).eval()


def test_parts_of_a_vittm():
    network = nn.ModuleDict(dict(backbone=tiny_vittm()))
    images = torch.randn(1, 3, 32, 32)
    before = network.backbone(images)[0]
    parts = time_parts(network, lambda: network.backbone(images), passes=3)
    assert list(parts) == ['embedding', 'read', 'ViT block', 'write', 'memory block', REST]
    assert min(parts.values()) >= 0
    torch.testing.assert_close(network.backbone(images)[0], before)
    assert not any('forward' in vars(module) for module in network.modules()), 'nothing is left on the modules'


def test_a_stopwatch_takes_inner_parts_off_the_outer(monkeypatch):
    ticks = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0])
    monkeypatch.setattr('mmvittm.benchmark.parts.time.perf_counter', lambda: next(ticks))
    watch = Stopwatch()
    inner = watch.timed(lambda: None, 'inner')

    def outer():
        inner()
        inner()

    watch.timed(outer, 'outer')()
    assert watch.times == dict(inner=6000.0, outer=4000.0)


# --- sweeps and reports ----------------------------------------------------------------------------------------------


def test_sweep_is_parsed():
    assert Sweep.parse('batch-size=1,8') == Sweep('batch-size', [1, 8])


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('colour=1,2', "'colour' cannot be swept, choose one of shape, batch-size, memory-patch"),
        ('shape', "'' is not a whole number above 0"),
        ('shape=64,big', "'big' is not a whole number above 0"),
        ('shape=64,0', "'0' is not a whole number above 0"),
        ('shape=64', 'give two or more different values'),
        ('shape=64,64', 'give two or more different values'),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(text, sentence):
    with pytest.raises(UserError, match=f'--sweep {text}: {sentence}'):
        Sweep.parse(text)


def test_patch_sizes_hold_whole_patches_of_both_streams():
    from mmengine.config import Config

    def sizes(**backbone):
        return patch_sizes(Config(dict(model=dict(backbone=backbone))))

    assert sizes(patch_size=16) == (16, 16)
    assert sizes(memory_embed=dict(patch_size=(8, 12)), process_embed=dict(patch_size=28)) == (56, 84)
    assert sizes(process_embed=dict(grid=4)) == (1, 1)


def test_growth_and_csv(tmp_path):
    rows = [
        dict(
            config=f'{name}.py',
            way='torch fp32',
            shape=[1, 3, side, side],
            macs_per_image=5.0 * side**2,
            time_ms=dict(median=side ** (2 * exponent)),
            swept=dict(size=side**2, unit='pixels'),
            times_ms=[1.0],
        )
        for side in (32, 64)
        for name, exponent in (('vit', 1.5), ('vittm', 1.0))
    ]
    vit, vittm = growth(rows)
    assert (vit['latency'], vittm['latency'], vit['macs']) == pytest.approx((1.5, 1.0, 1.0))
    assert flat(rows[0])['time_ms.median'] == 32**3
    write_csv(rows, tmp_path / 'rows.csv')
    header, first, *_ = (tmp_path / 'rows.csv').read_text().splitlines()
    assert header == 'config,way,batch,height,width,macs_per_image,time_ms.median,swept.size,swept.unit'
    assert first == 'vit.py,torch fp32,1,32,32,5120.0,32768.0,1024,pixels'
    assert len((tmp_path / 'rows.csv').read_text().splitlines()) == 5


def test_cpu_name_is_read_from_linux(tmp_path):
    (tmp_path / 'cpuinfo').write_text('processor\t: 0\nmodel name\t: Fast CPU: 3 GHz\nmodel name\t: other\n')
    assert cpu_name(tmp_path / 'cpuinfo') == 'Fast CPU: 3 GHz'
    assert cpu_name(tmp_path / 'missing')


# --- the page --------------------------------------------------------------------------------------------------------


def row(config: str, median: float, ratio: float, **more) -> dict:
    spread = dict(median=ratio, low=ratio, high=ratio)
    return dict(
        config=config,
        checkpoint=None,
        random_weights=True,
        measures='all of it',
        way='torch fp32',
        shape=[1, 3, 32, 32],
        parameters=1e6,
        macs_per_image=1e9,
        time_ms=dict(median=median, p10=median, p90=median),
        precision=0.01,
        stopped_by='precision',
        rounds=10,
        warmup=3,
        outliers=1,
        slowest_ms=9.0,
        fps=1e3 / median,
        speed_ratio=spread,
        speed_ratio_same_way=spread,
        share_of_ceiling=None,
        products_gflops=dict(median=150.0),
        share_of_products=dict(median=0.8, low=0.796, high=0.804),
        peak_memory=None,
        miou=None,
        swept=None,
        **more,
    )


def page_reports(ratio: float) -> dict:
    machine = dict(
        gpu=None, cpu='Fast CPU', cores=2, cpu_isa='AVX512', threads=2, versions=dict(torch='2'), date='today'
    )
    report = dict(
        machine=machine,
        settings=dict(train=False),
        runs=[dict(ceilings=[dict(dtype='fp32', product=[1, 2, 3], gflops=4.0)])],
        results=[
            row('vit.py', 100.0, 1.0, parts_ms=dict(rest=100.0)),
            row('vittm.py', 100 / ratio, ratio, parts_ms=dict(rest=1.0)),
        ],
        growth=[],
    )
    return {'backbone-fp32': report, 'backbone-fp32-again': report}


@pytest.mark.parametrize(('ratio', 'verdict'), [(2.6, 'yes'), (2.59, '**no**')])
def test_page_puts_targets_beside_results(ratio, verdict):
    page = markdown.generated(page_reports(ratio), [])
    assert f'| backbone 512² : 504², fp32 | ≥ 2.6 | 2.49 | {ratio:.2f} | {verdict} |' in page
    assert '| with UperNet, fp32 | ≥ 3.4 | 3.33 | – | – |' in page, 'not measured'
    assert '| vit | ms/batch | 100.00 ±1.0% | 100.00 ±1.0% | +0.0% |' in page
    assert '| vit | of own products (GFLOP/s) | 80% ±0.5% of 150 | 80% ±0.5% of 150 | +0.0% |' in page
    assert 'Fast CPU, 2 cores' in page


def test_page_keeps_what_is_written_by_hand():
    first = markdown.renewed('# Ours\n\nBefore.\n', markdown.generated(page_reports(2.0), []))
    page = markdown.renewed(first + '\nAfter.\n', markdown.generated(page_reports(3.0), []))
    assert page.startswith('# Ours\n\nBefore.\n')
    assert page.endswith(f'{markdown.END}\n\nAfter.\n')
    assert page.count(markdown.BEGIN) == 1
    assert '3.00' in page
    assert '2.00' not in page


def test_table_of_the_readme():
    """What was not measured has no row."""
    table = markdown.speeds(page_reports(2.5)).splitlines()
    assert table[2:4] == ['| backbone, 512² : 504², fp32 | 1.0 : 1.0 | 100 : 40 | 2.50 | – |', '']
    assert table[4] == 'Measured on: Fast CPU, 2 cores, AVX512, 2 threads, today.'


def test_targets_name_measurements_of_the_report():
    measurements = runpy.run_path(str(Path(__file__).parents[1] / 'tools' / 'performance_report.py'))['MEASUREMENTS']
    asked = set()

    class Reports(dict):
        def __missing__(self, name):
            asked.add(name)
            raise KeyError(name)

    for target in markdown.TARGETS:
        target.line(Reports())
    asked |= {name for _, name, _, _ in markdown.SPEEDS}
    assert asked <= measurements.keys()
    assert markdown.AGREEMENT in measurements
    for arguments in measurements.values():
        for config in (word for word in arguments if str(word).startswith('configs/')):
            assert (Path(__file__).parents[1] / config).is_file()
