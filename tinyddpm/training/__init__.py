"""From batches to checkpoints.

Read `optimizers`, `trainer`; then `run_config`, `presets`, `run_data`, `run_folder`, `checkpoint`; `peak_memory`
stands by itself.
"""
