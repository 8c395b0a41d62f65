"""The library behind ``tools/fps_benchmark.py``; import the module you need.

candidates   configs as networks, with their images and their work
complexity   multiply-adds, GEMMs and parameters
modes        run modes: backend, dtype and options
timing       interleaved rounds and their statistics
profiling    time by stage of the network, and peak memory
measurement  all of these for a list of candidates
machine      record of CPU, threads and versions
report       tables and CSV
plots        PNG files
"""
