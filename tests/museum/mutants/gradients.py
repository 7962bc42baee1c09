"""Gradients that are wrong, missing or in the wrong place."""

from tests.backends import test_gradients
from tests.museum import blind
from tests.museum.exhibit import Check, Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.networks import test_unet


def adjoint(operation: str) -> Check:
    return check(test_gradients.test_backward_is_the_adjoint_of_the_derivative, name=operation)


UNET_GRADIENTS = check(test_unet.test_unet_gradients_are_exact)
GROUP_NORM = "backends.ops.normalization:group_norm"
GROUP_NORM_BACKWARD = "backends.ops.normalization:group_norm_backward"
ATTENTION_BACKWARD = "backends.ops.attention:attention_backward"

MUTANTS = (
    Mutant(
        1,
        "dropped term that ones do not show",
        (Edit(GROUP_NORM_BACKWARD, "- normal * group_mean(xp, dnormal * normal)", ""),),
        (adjoint("group_norm"), UNET_GRADIENTS),
        passes=(check(blind.cotangent_of_ones),),
    ),
    Mutant(
        2,
        "normalised x overwritten before backward",
        (
            Edit(
                GROUP_NORM,
                "return normal * gamma + beta, NormContext(x,",
                "y = normal * gamma + beta\n    return y, NormContext(y,",
            ),
            Edit(GROUP_NORM_BACKWARD, "normal = (xp.reshape(x, shape) - mean) * rstd", "normal = xp.reshape(x, shape)"),
        ),
        (adjoint("group_norm"), adjoint("group_norm_silu"), UNET_GRADIENTS),
        passes=(check(blind.group_norm_gradient_at_its_initial_parameters),),
    ),
    Mutant(
        3,
        "gradients under another key",
        (
            Edit(
                "tinyddpm.networks.parameters:Parameter.write",
                "gradients[self.name]",
                'gradients.setdefault(self.name.replace("time.", "time_embedding."), gradient)',
            ),
        ),
        (UNET_GRADIENTS, check(test_unet.test_simple_unet_gradients_are_exact)),
        passes=(check(blind.backward_runs_and_something_learns),),
    ),
    Mutant(
        4,
        "gradient in the wrong places",
        (
            Edit(
                "backends.ops.linear:linear_backward",
                "xp.sum(drows, axis=0) if",
                "xp.roll(xp.sum(drows, axis=0), 1) if",
            ),
        ),
        (adjoint("linear"), UNET_GRADIENTS),
        passes=(check(blind.shapes_only), check(blind.signed_sum)),
    ),
    Mutant(
        5,
        "group norm without the mean",
        (Edit(GROUP_NORM_BACKWARD, "- group_mean(xp, dnormal)", ""),),
        (adjoint("group_norm"), UNET_GRADIENTS),
    ),
    Mutant(
        5,
        "attention without the row sum",
        (Edit(ATTENTION_BACKWARD, " - xp.sum(dweights * weights, axis=-1, keepdims=True)", ""),),
        (adjoint("attention"), UNET_GRADIENTS),
    ),
    Mutant(
        6,
        "concatenation cut at the wrong channel",
        (Edit("backends.ops.joining:concat_channels", "axis=-1), a.shape[-1]", "axis=-1), b.shape[-1]"),),
        (adjoint("concat_channels"),),
    ),
    Mutant(
        6,
        "skip's gradient added twice",
        (
            Edit(
                "tinyddpm.networks.unet:UNet.backward",
                "dh, _ = add(dh, dskips.pop())\n            dh = level.resample",
                "dh, _ = add(dh, 2 * dskips.pop())\n            dh = level.resample",
            ),
        ),
        (UNET_GRADIENTS,),
    ),
)
