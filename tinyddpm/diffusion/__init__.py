"""The paper: variance schedules, the process, what training minimises.

Read `schedules`, `process`, `objective`, and for learned variances `bound`. `mixture` has data for which all that a
network would learn is a formula.
"""
