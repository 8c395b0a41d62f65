# Trained on windows of full height, evaluated on the whole Earth in one pass: 135×270 memory and 15×30 process tokens.
_base_ = [
    '../_base_/models/pixel-shuffle_vittm-6x96.py',
    '../_base_/datasets/blue_marble_scene.py',
    '../_base_/schedules/earth.py',
    '../_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.window_size))
