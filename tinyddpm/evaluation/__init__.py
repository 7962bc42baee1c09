"""Measuring a model: `loss_by_level`, `likelihood`; of its samples `quality`, by `classifier`, `frechet`,
`kernel_distance`, `precision_recall`; `nearest_images`; `train_classifier` makes what lies in `classifiers/`.
Measuring samplers: `convergence`.
"""
