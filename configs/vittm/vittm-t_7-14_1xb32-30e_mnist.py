_base_ = [
    '../_base_/models/classifier_vittm-t_28x28.py',
    '../_base_/datasets/mnist.py',
    '../_base_/schedules/mnist.py',
    '../_base_/default_runtime_classification.py',
]
