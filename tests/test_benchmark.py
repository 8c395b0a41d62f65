"""The library of the FPS benchmark: statistics, rounds, run modes, work, memory, stages and reports."""

import itertools
import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_vittm
from mmengine.config import Config
from mmengine.utils import digit_version
from torch import nn

from mmvittm.apis.config import build_model, load_config
from mmvittm.apis.tasks import inference_network
from mmvittm.benchmark.complexity import count_forward, count_work, gemm_run, largest
from mmvittm.benchmark.machine import cpu_name
from mmvittm.benchmark.measurement import fastest, has_fast_gemms, own_rates, patch_sizes
from mmvittm.benchmark.modes import BACKENDS, DTYPES, RunMode, run_modes, training_step
from mmvittm.benchmark.profiling import peak_memory, staged_modules, time_stages
from mmvittm.benchmark.report import SPEED, cells, displayed, growth, to_frame
from mmvittm.benchmark.timing import (
    MIN_ROUNDS,
    growth_exponent,
    outliers,
    spread,
    time_interleaved,
    warm_up,
)
from mmvittm.errors import UserError, install_command

ROOT = Path(__file__).parents[1]

# --- statistics ------------------------------------------------------------------------------------------------------


def test_spread_of_known_numbers():
    summary = spread([*range(101), 10_000])
    assert [summary[key] for key in ('median', 'p10', 'p90')] == pytest.approx([50.5, 10.1, 90.9])
    assert summary['precision'] == (summary['high'] - summary['low']) / 2 / 50.5 > 0
    assert spread([3.0]) == dict(median=3.0, p10=3.0, p90=3.0, low=3.0, high=3.0, precision=0.0)


def test_median_interval_is_that_of_the_binomial_ranks():
    """Of 40 values the 14th and the 27th; fewer than 14 of 40 fair coins show heads with a probability of 1.9 %."""
    sample = np.random.default_rng(1).permutation(np.arange(1.0, 41))
    assert (spread(sample)['low'], spread(sample)['high']) == (14, 27)
    assert sum(math.comb(40, heads) for heads in range(14)) / 2**40 < 0.025
    assert (spread([3, 1, 2, 5, 4])['low'], spread([3, 1, 2, 5, 4])['high']) == (1, 5)


@pytest.mark.parametrize('size', [6, 10, 40, 301])
def test_median_interval_covers_the_median(size):
    rng = np.random.default_rng(1)
    intervals = [spread(rng.lognormal(size=size)) for _ in range(1000)]
    assert 0.94 < np.mean([own['low'] <= 1 <= own['high'] for own in intervals]) < 0.99


def test_outliers_are_the_slow_ones():
    assert outliers([10, 11, 12, 13, 14, 30, 1]) == [30]
    assert outliers([5.0] * 4) == []


def test_growth_exponent():
    assert growth_exponent([1, 4, 16], [3, 3 * 4**1.5, 3 * 16**1.5]) == pytest.approx(1.5)


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_round_orders_are_balanced_and_seeded():
    def orders(seed):
        calls = []
        time_interleaved('abcd', rounds=20, warmup=0, seed=seed, timer=lambda run: calls.append(run) or len(calls))
        return [calls[i : i + 4] for i in range(0, 80, 4)]

    first = orders(1)
    assert all(sorted(order) == list('abcd') for order in first)
    assert all(second == odd[::-1] for odd, second in zip(first[::2], first[1::2], strict=True))
    assert len({tuple(order) for order in first}) > 5
    assert first == orders(1) != orders(2)


def scripted(*times):
    """Runs named a, b, … and a timer that gives each its next time and notes the call."""
    calls, scripts = [], {name: iter(own) for name, own in zip('abc', times, strict=False)}

    def timer(run):
        calls.append(run)
        return next(scripts[run])

    return list(scripts), timer, calls


def test_times_are_sorted_by_run_and_round():
    runs, timer, calls = scripted([9.0, 9.0, 1.0, 2.0], [9.0, 9.0, 3.0, 4.0])
    seen = []
    timing = time_interleaved(
        runs, rounds=2, warmup=2, timer=timer, clock=itertools.count().__next__, on_step=seen.append
    )
    assert ''.join(calls[:4]) == 'aabb'
    assert ''.join(calls[4:]) in ('abba', 'baab')
    assert timing.times == [[1.0, 2.0], [3.0, 4.0]]
    assert (timing.warmups, timing.stopped_by, seen) == ([2, 2], ['rounds'] * 2, ['round 1, 1 s', 'round 2, 2 s'])


def test_rounds_continue_until_all_medians_are_precise():
    noisy = itertools.chain([5.0, 15.0] * 10, itertools.repeat(10.0))
    runs, timer, _ = scripted(itertools.repeat(1.0), noisy, itertools.cycle([1.0, 100.0]))
    timing = time_interleaved(runs, 0.02, 1e9, warmup=0, judged=2, timer=timer)
    assert MIN_ROUNDS < len(timing.times[0]) < 200
    assert timing.stopped_by == ['precision'] * 3
    assert len({len(times) for times in timing.times}) == 1


def test_rounds_end_when_time_is_over():
    runs, timer, _ = scripted(itertools.repeat(1.0), itertools.cycle([1.0, 3.0]))
    timing = time_interleaved(runs, 0.02, 24.5, warmup=0, timer=timer, clock=itertools.count().__next__)
    assert (len(timing.times[0]), timing.stopped_by) == (25, ['precision', 'max time'])


@pytest.mark.parametrize(
    ('times', 'limit', 'count'),
    [([9, 5, 5, 5], 20, 4), ([9, 8, 7, 6, 5, 5, 5.1], 20, 7), ([9, 8, 7, 6], 4, 4), ([1, 2, 3], 20, 3), ([], 0, 0)],
)
def test_warm_up_continues_until_times_settle(times, limit, count):
    [run], timer, calls = scripted(times)
    assert warm_up(run, limit, timer) == count == len(calls)


# --- run modes -------------------------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


@pytest.mark.parametrize(
    ('mode', 'tolerance'),
    [
        (RunMode(), 0),
        (RunMode(options=('channels_last',)), 1e-5),
        (RunMode(dtype='bf16'), 2e-2),
        (RunMode(dtype='bf16', options=('half_weights',)), 2e-2),
        (RunMode('compile'), 1e-5),
        (RunMode('onnxruntime', threads=1), 1e-5),
        (RunMode('openvino', threads=1), 1e-5),
        (RunMode('openvino', 'bf16', threads=1), 2e-2),
        (RunMode('openvino', 'int8', threads=1), 5e-2),
    ],
    ids=str,
)
def test_backends_compute_the_network(mode, tolerance, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))  # what another CPU left in /tmp may not run here
    for package in BACKENDS[mode.backend].packages:
        pytest.importorskip(package)
    if mode.backend == 'compile' and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('compiling takes minutes with older torch')
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    expected = network(images)
    output = BACKENDS[mode.backend].prepare(network, images, mode)()
    output = torch.as_tensor(output[0]) if isinstance(output, list) else output
    assert not output.requires_grad
    halved = mode.backend == 'torch' and mode.dtype == 'bf16'
    assert output.dtype == (torch.bfloat16 if halved else torch.float32)
    torch.testing.assert_close(output.float(), expected, rtol=tolerance, atol=tolerance)


def test_openvino_says_where_bf16_is_fp32(recwarn):
    openvino = pytest.importorskip('openvino')
    BACKENDS['openvino'].prepare(small_network(), torch.randn(1, 3, 16, 16), RunMode('openvino', 'bf16', threads=1))
    said = any('this CPU has no bf16' in str(warning.message) for warning in recwarn)
    assert said == ('BF16' not in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))


def test_options_go_to_the_modes_that_accept_them():
    pairs = itertools.product(['torch', 'compile'], ['fp32', 'bf16'])
    modes = run_modes(pairs, ['half_weights', 'channels_last'])
    assert [str(mode) for mode in modes] == [
        f'{backend} {rest}'
        for backend in ('torch', 'compile')
        for rest in ('fp32, channels last', 'bf16, half weights, channels last')
    ]


@pytest.mark.parametrize(
    ('backend', 'dtype', 'options', 'common', 'sentence'),
    [
        ('torch', 'fp32', ['half_weights'], {}, '--half-weights needs the backend torch or compile and --dtype bf16'),
        ('torch', 'fp32', ['cuda_graph'], {}, '--cuda-graph needs .* --device cuda, without --train'),
        ('openvino', 'bf16', ['half_weights'], {}, '--half-weights needs the backend torch or compile'),
        ('onnxruntime', 'fp32', ['channels_last'], {}, '--channels-last needs the backend torch or compile$'),
        ('openvino', 'fp32', [], dict(device='cuda'), 'the backend openvino runs inference on the CPU: drop --train'),
        ('openvino', 'fp32', [], dict(train=True), 'the backend openvino runs inference on the CPU: drop --train'),
        ('onnxruntime', 'bf16', [], {}, 'onnx does not run bf16'),
        ('openvino', 'fp16', [], {}, 'openvino does not run fp16'),
        ('torch', 'int8', [], {}, 'the backend torch does not run int8: use openvino'),
    ],
)
def test_impossible_run_mode_is_refused(backend, dtype, options, common, sentence, monkeypatch):
    monkeypatch.setattr('mmvittm.deploy.base.import_module', lambda name: None)  # as if installed
    with pytest.raises(UserError, match=sentence):
        run_modes([(backend, dtype)], options, **common)


def test_missing_backend_is_refused(monkeypatch):
    def import_module(name):
        raise ImportError(name)

    monkeypatch.setattr('mmvittm.deploy.base.import_module', import_module)
    with pytest.raises(UserError, match=re.escape(f'openvino, which is not installed: `{install_command("deploy")}`')):
        run_modes([('openvino', 'fp32')])


def test_training_step_makes_and_drops_gradients():
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    seen = []
    network[3].weight.register_hook(lambda grad: seen.append(grad.clone()))
    training_step(network, images)()
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(seen[0], network[:3](images).sum(0).expand(5, -1))


# --- work, GEMMs, memory and stages ----------------------------------------------------------------------------------


def test_work_of_a_training_step_includes_backward():
    network, images = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), torch.randn(10, 8)
    assert count_forward(network, images)[0] == 10 * (8 * 4 + 4 * 2)
    forward_and_weights = 2 * 10 * (8 * 4 + 4 * 2)
    assert count_work(training_step(network, images))[0] == forward_and_weights + 10 * 4 * 2

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    tokens = torch.randn(1, 2, 10, 4, requires_grad=True)
    step = count_work(training_step(Attention(), tokens))[0]
    assert step == (2 + 5) * 2 * 10**2 * 4, 'two products, then the scores again and four gradients'


def test_gemms_are_those_of_the_linear_layers():
    network = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 3))
    _, gemms = count_forward(network, torch.randn(2, 5, 8))
    assert gemms == {(10, 8, 32): 2, (10, 32, 8): 1, (10, 32, 3): 1}
    assert largest(gemms, 2) == [(10, 8, 32), (10, 32, 8)]
    assert largest(Counter({(4, 4, 4): 1, (2, 2, 2): 10}), 1) == [(2, 2, 2)], 'ten small ones are more work'
    assert gemm_run((10, 8, 32), torch.bfloat16)().shape == (10, 32)


def test_ceiling_is_the_highest_rate_of_each_dtype():
    times = {('fp32', (10, 20, 30)): [1.0, 1.0], ('fp32', (100, 20, 30)): [2.0, 2.0], ('bf16', (10, 20, 30)): [0.5]}
    ceilings = fastest(times)
    assert ceilings['fp32']['gemm'] == (100, 20, 30)
    assert ceilings['fp32']['gflops'] == pytest.approx(2 * 60_000 / 2e-3 / 1e9)
    assert ceilings['bf16']['gflops'] == pytest.approx(2 * 6_000 / 0.5e-3 / 1e9)


@pytest.mark.parametrize(('isa', 'fast'), [('AVX2', {'fp32'}), ('AVX512', {'fp32', 'bf16', 'fp16'})])
def test_emulated_gemms_are_not_timed(isa, fast, monkeypatch):
    monkeypatch.setattr('torch.backends.cpu.get_cpu_capability', lambda: isa)
    assert {dtype for dtype in DTYPES if has_fast_gemms(dtype, 'cpu')} == fast
    assert {dtype for dtype in DTYPES if has_fast_gemms(dtype, 'cuda')} == {'fp32', 'bf16', 'fp16'}


def test_own_gemms_are_those_of_the_network_and_dtype():
    times = {('fp32', (10, 20, 30)): [1.0, 2.0], ('fp32', (10, 20, 60)): [2.0, 1.0], ('bf16', (10, 20, 30)): [0.5, 0.5]}

    def rates(*gemms, dtype='fp32'):
        return own_rates(SimpleNamespace(gemms=gemms, mode=SimpleNamespace(dtype=dtype)), times)

    assert rates((10, 20, 30)) == pytest.approx([2 * 6_000 / 1e6, 2 * 6_000 / 2e6])
    assert rates((10, 20, 30), (10, 20, 60)) == pytest.approx([2 * 18_000 / 3e6] * 2)
    assert rates() is None
    assert rates((10, 20, 30), dtype='int8') is None, 'GEMMs are not timed in int8'


def test_peak_memory_hides_no_error_and_always_runs(monkeypatch):
    def fail():
        raise KeyError('of the network')

    with pytest.raises(KeyError, match='of the network'):
        peak_memory(fail)

    def refuse(path, text):
        raise PermissionError(path)

    monkeypatch.setattr(Path, 'write_text', refuse)  # /proc/self/clear_refs
    ran = []
    assert peak_memory(lambda: ran.append(1)) is None
    assert ran == [1]


def test_peak_memory_is_what_a_pass_takes():
    if peak_memory(lambda: None) is None:
        pytest.skip('the system does not tell')
    held = torch.ones(1000, 1000)
    peak = peak_memory(lambda: torch.ones(30_000_000).sum() + held.sum())
    assert 110e6 < peak < 150e6


def test_stages_of_a_vittm():
    network = nn.ModuleDict(dict(backbone=tiny_vittm()))
    images = torch.randn(1, 3, 16, 16)
    before = network.backbone(images)[0]
    stages = time_stages(network, lambda: network.backbone(images), passes=3)
    assert list(stages) == ['embedding', 'read', 'ViT block', 'write', 'memory block', 'rest']
    assert min(stages.values()) >= 0
    torch.testing.assert_close(network.backbone(images)[0], before)
    assert not any('forward' in vars(module) for module in network.modules()), 'modules are restored'


def test_stages_sum_to_the_pass(monkeypatch):
    network = nn.ModuleDict(dict(backbone=tiny_vittm()))
    seconds = itertools.count()  # every look at the clock takes a second
    monkeypatch.setattr('mmvittm.benchmark.timing.time.perf_counter', lambda: next(seconds))
    stages = time_stages(network, lambda: network.backbone(torch.randn(1, 3, 16, 16)), passes=1)
    rest = stages.pop('rest')
    calls = sum(stages.values()) / 1e3
    assert calls >= len(list(staged_modules(network)))
    assert rest == 1e3 * (calls + 1), 'the pass and each call look twice'


def test_no_stage_is_inside_another():
    classifier = load_config(ROOT / 'configs/vit/vit-6x96_8_1xb128-2e_cifar10.py')
    network = inference_network(build_model(classifier))
    staged = [module for module, _ in staged_modules(network)]
    assert len(staged) == 1 + 6 + 1, 'patches, blocks and the head'
    for module in staged:
        assert not {id(inner) for inner in module.modules() if inner is not module} & set(map(id, staged))


# --- reports ---------------------------------------------------------------------------------------------------------


def test_patch_sizes_hold_whole_patches_of_both_streams():
    def sizes(**backbone):
        return patch_sizes(Config(dict(model=dict(backbone=backbone))))

    assert sizes(patch_size=16) == (16, 16)
    assert sizes(memory_embed=dict(patch_size=(8, 12)), process_embed=dict(patch_size=28)) == (56, 84)
    assert sizes(process_embed=dict(grid=4)) == (1, 1)


def result(config: str = 'vit.py', side: int = 32, **own) -> dict:
    """A results row, as far as reports read it."""
    lists = dict(shape=[1, 3, side, side], gemms=[], times_ms=[])
    return dict(config=config, mode='torch fp32', macs_per_image=5.0 * side**2, **lists) | own


def test_growth_over_the_batch():
    rows = [
        result(shape=[batch, 3, 32, 32], time_ms=dict(median=float(batch)), swept=dict(size=batch, unit='images'))
        for batch in (1, 2)
    ]
    [own] = growth(to_frame(rows))
    assert (own['latency'], own['macs']) == pytest.approx((1.0, 1.0))


def test_growth_by_config_and_the_frame_it_needs():
    rows = [
        result(
            f'{name}.py',
            side,
            time_ms=dict(median=side ** (2 * exponent)),
            ceiling=dict(gemm=(4, 5, 6)),
            swept=dict(size=side**2, unit='pixels'),
        )
        for side in (32, 64)
        for name, exponent in (('vit', 1.5), ('vittm', 1.0))
    ]
    frame = to_frame(rows)
    vit, vittm = growth(frame)
    assert (vit['latency'], vittm['latency'], vit['macs']) == pytest.approx((1.5, 1.0, 1.0))
    assert frame.iloc[0].to_dict() == {
        'config': 'vit.py', 'mode': 'torch fp32', 'batch': 1, 'height': 32, 'width': 32, 'macs_per_image': 5120.0,
        'time_ms.median': 32768.0, 'ceiling.gemm': '4×5×6', 'swept.size': 1024, 'swept.unit': 'pixels',
    }  # fmt: skip


def test_cells_without_a_value_show_a_dash():
    own = dict(share_of_gemms=dict(median=0.8, precision=0.005), gemms_gflops=dict(median=150.0))
    frame = to_frame([result(**own), result(share_of_gemms=None, gemms_gflops=None)])
    texts = cells(frame, SPEED)
    assert texts['of own GEMMs'].tolist() == ['80% ±0.5% of 150', '–']
    assert 'FPS' not in texts, 'no row has a value'


def test_shares_of_stages():
    own = dict(checkpoint='a/b.pth', parameters=5e6, peak_memory=None, stages_ms=dict(read=1.0, rest=3.0))
    [row] = displayed(to_frame([result(**own)])).to_dict('records')
    assert (row['shares.read'], row['shares.rest'], row['weights'], row['mega_parameters']) == (0.25, 0.75, 'b.pth', 5)


def test_cpu_name_is_read_from_linux(tmp_path):
    (tmp_path / 'cpuinfo').write_text('processor\t: 0\nmodel name\t: Fast CPU: 3 GHz\nmodel name\t: other\n')
    assert cpu_name(tmp_path / 'cpuinfo') == 'Fast CPU: 3 GHz'
    assert cpu_name(tmp_path / 'missing')
