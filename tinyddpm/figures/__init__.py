"""The figures of `tinyddpm figures`: each a picture, the numbers in it, and a caption that says what to see.

`registry` lists them. `plate` is a finished one, `workshop` what they are made from, `recipes` the runs that they need,
`style` how they look, `measures` what is measured. A file for each family: `forward_process`, `training_images`,
`network_parts` with `network_drawing`, `samples`, `comparisons`, `solvers`,
`quality_figures`.
"""
