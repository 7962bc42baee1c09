"""From batches to checkpoints.

Read `optimizers`, `trainer`; then `run_config`, `presets`, `validation`, `run_data`, `run_folder`, `checkpoint`,
`edits`; `importance`, `peak_memory` and `starting_weights` stand by themselves.
"""
