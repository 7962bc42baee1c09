"""From batches to checkpoints.

Read `optimizers`, `trainer`; then `run_config`, `presets`, `validation`, `run_data`, `run_folder`, `checkpoint`,
`edits`; `several_ranks` shares a run among processes; `importance`, `peak_memory` and `starting_weights` stand by
themselves.
"""
