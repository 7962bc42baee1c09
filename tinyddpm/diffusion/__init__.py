"""The paper: variance schedules, the process, what training minimises. Read `schedules`, `process`, `objective`."""
