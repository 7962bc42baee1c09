"""3x3 convolutions.

Read `algorithms`, `tiles`, `winograd`, `few_tiles`, `direct`, `few_channels`, `kinds`, `choice`.
"""
