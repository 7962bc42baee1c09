"""The paper: variance schedules, then the process. Read `schedules`, `process`."""
