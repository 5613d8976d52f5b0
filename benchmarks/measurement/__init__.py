"""What the benchmarks have in common: command lines and result files, interleaved rounds, runs, made-up catalogs,
servers. The scripts one folder up ask one question each."""
