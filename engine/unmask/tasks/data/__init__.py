"""The files of tasks, read as examples: tables, the layouts of benchmarks, CoNLL columns, questions in JSON."""
