"""The library behind ``tools/fps_benchmark.py``; import the module you need.

modes        run modes: backend, dtype and options
timing       interleaved rounds and their statistics
complexity   multiply-adds, GEMMs and parameters
profiling    time by stage of the network, and peak memory
measurement  models from configs, timed in their run modes, and the results
machine      record of CPU, threads and versions
report       tables, CSV and plots of results
"""
