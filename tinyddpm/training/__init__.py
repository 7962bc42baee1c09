"""From batches to checkpoints.

Read `optimizers`, `trainer`; then `run_config`, `presets`, `run_folder`, `checkpoint`, `edits`; `peak_memory` stands by
itself.
"""
