"""From batches to checkpoints. Read `optimizers`, `trainer`, `run_config`, `run_folder`."""
