"""The instrument behind ``tools/fps_benchmark.py``; import the module you need.

backends    what runs it: PyTorch, torch.compile, ONNX Runtime, OpenVINO
contender   a network ready to be timed by a backend
timing      interleaved rounds that go on until the medians are known well enough
statistics  medians, their confidence, ratios, outliers, growth
ceiling     how fast the machine multiplies matrices of the network's shapes
memory      the memory a pass takes
parts       where in the network the time goes
sweep       the same again with another size, batch or patch
measurement all of these, for one swept value
report      tables and CSV
plots       pictures
machine     what it all was measured on
"""
