"""Sizes, groups and places in the network."""

from tests.backends import test_ops
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.networks import test_model_inputs, test_unet
from tinyddpm.networks.unet import UNetConfig

GROUP_NORM = "backends.ops.normalization:group_norm"

MUTANTS = (
    Mutant(
        18,
        "groups that do not divide taken by the operation",
        (Edit(GROUP_NORM, "if groups < 1 or channels % groups:", "if groups < 1:"),),
        (check(test_ops.test_group_norm_refuses_groups_that_do_not_divide, op=test_ops.group_norm, groups=4),),
    ),
    Mutant(
        18,
        "groups that do not divide taken by the config",
        (
            Edit(
                "tinyddpm.networks.unet:check_unet_sizes",
                "if config.base_channels * mult % config.groups:",
                "if config.groups > config.base_channels * mult:",
            ),
        ),
        (
            check(
                test_model_inputs.test_fields_of_both_configs,
                kind=UNetConfig,
                fields={"groups": 5},
                parts=("groups=5", "32"),
            ),
        ),
    ),
    Mutant(
        18,
        "28 pixels halved three times",
        (Edit("tinyddpm.networks.model:check_size", "side < factor or side % factor", "side < factor"),),
        (check(test_model_inputs.test_three_halvings_of_28_name_sizes_that_work, kind=UNetConfig),),
    ),
    Mutant(
        18,
        "odd sides pooled",
        (
            Edit(
                "backends.ops.resampling:average_pool",
                "if h % 2 or w % 2:",
                "x = x[:, : h - h % 2, : w - w % 2]\n    if 0:",
            ),
            Edit(
                "backends.ops.resampling:average_pool", "return xp.mean(", "n, h, w, c = x.shape\n    return xp.mean("
            ),
        ),
        (check(test_ops.test_average_pool_refuses_odd_sizes, h=3, w=4),),
        passes=(check(test_ops.test_average_pool_undoes_upsample_nearest),),
    ),
    Mutant(
        18,
        "height and width exchanged",
        (
            Edit(
                "backends.ops.resampling:upsample_nearest", "(n, 2 * h, 2 * w, c)), None", "(n, 2 * w, 2 * h, c)), None"
            ),
        ),
        (check(test_ops.test_average_pool_undoes_upsample_nearest),),
    ),
    Mutant(
        19,
        "attention by the down-sampling factor",
        (
            Edit(
                "tinyddpm.networks.unet:UNetConfig.attends",
                "side in self.attention_resolutions",
                "min(self.size) // side in self.attention_resolutions",
            ),
        ),
        (check(test_unet.test_attention_stands_where_the_config_says),),
    ),
)
